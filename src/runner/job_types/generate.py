"""The `generate` job type: one load, then the items of the batch one after another."""

import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import assert_never

from PIL.Image import Image

from runner.diffusion.pipelines import TextToImage, place
from runner.diffusion.prompts import find_tags, find_truncations, to_log
from runner.diffusion.sources import NO_SOURCES, Sources
from runner.images.decode import decode, decode_alpha_mask, decode_mask
from runner.images.metadata import GenerationFacts, LoraFacts, describe_generation
from runner.images.sender import encode_and_send
from runner.ipc.channel import Emit
from runner.job_types.base import Context, item_progress, run_items
from runner.job_types.host_models import obtain_model
from runner.job_types.previews import answer_request
from runner.job_types.step_loras import add_step_loras
from shared.limits import MAX_SEED
from shared.models.verify import weights_hash
from shared.protocol.messages import (
    GenerateParams,
    GenerateSpec,
    InputRole,
    Log,
    Progress,
    SourceSpec,
)


class Generate:
    """Text and pictures to image with a pipeline of `runner.diffusion.pipelines`."""

    def __init__(self) -> None:
        self._pipeline: TextToImage | None = None
        self._ctx: Context[GenerateSpec] | None = None
        self._weights_sha256 = ""
        self._loras: list[LoraFacts] = []
        self._sources = NO_SOURCES

    def prepare(self, ctx: Context[GenerateSpec]) -> None:
        spec = ctx.spec
        ctx.emit(Progress(stage="load", step=0, steps=1))
        self._ctx = ctx
        # Before the model: a picture that cannot be decoded costs no load.
        self._sources = _pull_sources(ctx)
        model = obtain_model(spec, ctx.stop.check)
        assert model is not None, "every generate step has a model"
        self._weights_sha256 = weights_hash(model.descriptor)
        self._loras = add_step_loras(model.loaded, spec, ctx.stop.check)
        self._pipeline = place(
            model.loaded,
            spec.model.kind,
            spec.preset,
            spec.params.scheduler,
            self._sources.task,
        )
        ctx.emit(Progress(stage="load", step=1, steps=1))

    def run(self, params: GenerateParams, emit: Emit) -> int:
        assert self._ctx is not None and self._pipeline is not None, "run before prepare"
        self._pipeline.check(params)
        if self._ctx.spec.preset.vae_tiling and not self._pipeline.tiled:
            text = (
                "this pipeline cannot decode in tiles: it may need more memory than the preset says"
            )
            emit(Log(level="WARNING", code="preset.no_tiles", message=text))
        for truncation in find_truncations(self._pipeline, params):
            emit(to_log(truncation))
        for remark in find_tags(params):
            emit(remark)
        return run_items(self._ctx, params.count, partial(self._item, params, emit))

    def cleanup(self) -> None:
        self._pipeline = None
        self._ctx = None
        self._sources = NO_SOURCES

    def _item(self, params: GenerateParams, emit: Emit, index: int) -> Callable[[], None]:
        assert self._ctx is not None and self._pipeline is not None
        ctx, pipeline, seed = self._ctx, self._pipeline, seed_of(params.seed, index)

        def on_step(step: int, steps: int) -> None:
            emit(item_progress("sampling", index, step, steps))
            if step == steps:
                emit(item_progress("decode", index, 0, 1))
            ctx.stop.check()

        emit(item_progress("sampling", index, 0, params.steps))
        on_latents = partial(answer_request, ctx, pipeline, index)
        image, blocked = pipeline.picture(params, seed, on_step, self._sources, on_latents)
        if blocked:
            text = "the model's safety checker replaced this picture with a black one"
            emit(Log(level="WARNING", code="safety.blocked", message=text, item_index=index))
        facts = GenerationFacts(
            spec=ctx.spec,
            item_index=index,
            seed=seed,
            weights_sha256=self._weights_sha256,
            loras=self._loras,
            scheduler=pipeline.scheduler,
            sampler=pipeline.scheduler_class,
            sampler_options=pipeline.scheduler_options,
            versions=ctx.versions,
        )
        emit(item_progress("decode", index, 1, 1))
        metadata = describe_generation(facts, *image.size)
        return partial(encode_and_send, image, index, seed, params, metadata, emit)


def _pull_sources(ctx: Context[GenerateSpec]) -> Sources:
    """The pictures that the step starts from, at the size of its result. Raises `InputRefused`."""
    by_role = defaultdict[InputRole, list[Image]](list)
    for source in ctx.spec.inputs:
        by_role[source.role].append(_pull_source(ctx, source))
    sources = Sources(
        image=next(iter(by_role["image"]), None),
        mask=next(iter(by_role["mask"] + by_role["alpha_mask"]), None),
        references=tuple(by_role["reference"]),
    )
    return sources.fitted(ctx.spec.params.width, ctx.spec.params.height)


def _pull_source(ctx: Context[GenerateSpec], source: SourceSpec) -> Image:
    data = ctx.inputs.pull(source.item_index)
    match source.role:
        case "mask":
            return decode_mask(data, source)
        case "alpha_mask":
            return decode_alpha_mask(data, source)
        case "image" | "reference":
            return decode(data, source, ctx.emit)
        case _:
            assert_never(source.role)


def seed_of(seed: int | None, index: int) -> int:
    """The seed of one item: drawn now, or `seed + index` so that a batch can be repeated."""
    if seed is None:
        return random.SystemRandom().randrange(MAX_SEED)
    return (seed + index) % MAX_SEED
