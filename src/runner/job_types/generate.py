"""The `generate` job type: one load, then the items of the batch one after another.

A picture is encoded and sent while the next one is sampled (`runner.images.sender`).
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from runner.diffusion.model_folder import guard_unchanged
from runner.diffusion.pipelines import TextToImage, load
from runner.diffusion.prompts import Truncation, find_truncations
from runner.images.metadata import GenerationFacts, describe_generation
from runner.images.sender import ImageSender, send
from runner.ipc.channel import Emit
from runner.job_types.base import Context
from shared.limits import MAX_SEED
from shared.models.verify import check_installed, weights_hash
from shared.protocol.messages import GenerateParams, GenerateSpec, Log, Progress, Stage

# Of the words that were cut, in the message; all of them are in the payload.
MAX_SHOWN = 200


class Generate:
    """Text to image with one of the pipelines of `runner.diffusion.pipelines`."""

    def __init__(self) -> None:
        self._pipeline: TextToImage | None = None
        self._ctx: Context[GenerateSpec] | None = None
        self._weights_sha256 = ""

    def prepare(self, ctx: Context[GenerateSpec]) -> None:
        spec = ctx.spec
        ctx.emit(Progress(stage="load", step=0, steps=1))
        folder = Path(spec.model.folder)
        self._ctx = ctx
        with guard_unchanged(folder):
            # The headers only: every hash was verified when the model was installed.
            model = check_installed(folder, checkpoint_sha256=spec.model.checkpoint_sha256)
            ctx.stop.check()
            self._weights_sha256 = weights_hash(model)
            self._pipeline = load(
                spec.model.kind, folder, spec.preset, spec.params.scheduler, layout=model.layout
            )
        ctx.emit(Progress(stage="load", step=1, steps=1))

    def run(self, params: GenerateParams, emit: Emit) -> int:
        assert self._ctx is not None and self._pipeline is not None, "run before prepare"
        self._pipeline.check(params)
        if self._ctx.spec.preset.vae_tiling and not self._pipeline.tiled:
            emit(_untiled())
        for cut in find_truncations(self._pipeline, params):
            emit(_cut(cut))
        todo = [i for i in range(params.count) if i not in self._ctx.spec.done_items]
        with ImageSender() as finisher:
            for index in todo:
                self._ctx.stop.check()
                self._item(index, params, emit, finisher)
        return len(todo)

    def cleanup(self) -> None:
        self._pipeline = None
        self._ctx = None

    def _item(self, index: int, params: GenerateParams, emit: Emit, finisher: ImageSender) -> None:
        assert self._ctx is not None and self._pipeline is not None
        ctx = self._ctx
        seed = seed_of(params.seed, index)

        def on_step(step: int, steps: int) -> None:
            emit(_progress("sampling", index, step, steps))
            if step == steps:
                emit(_progress("decode", index, 0, 1))
            ctx.stop.check()

        emit(_progress("sampling", index, 0, params.steps))
        image, blocked = self._pipeline.picture(params, seed, on_step)
        if blocked:
            emit(_blocked(index))
        facts = GenerationFacts(
            spec=ctx.spec,
            item_index=index,
            seed=seed,
            weights_sha256=self._weights_sha256,
            scheduler=self._pipeline.scheduler,
            sampler=self._pipeline.scheduler_class,
            sampler_options=self._pipeline.scheduler_options,
            versions=ctx.versions,
        )
        emit(_progress("decode", index, 1, 1))
        told = describe_generation(facts, *image.size)
        finisher.put(index, partial(send, image, index, seed, params, told, emit))


def seed_of(seed: int | None, index: int) -> int:
    """The seed of one item: drawn now, or `seed + index` so that a batch can be repeated."""
    if seed is None:
        return random.SystemRandom().randrange(MAX_SEED)
    return (seed + index) % MAX_SEED


def _progress(stage: Stage, index: int, step: int, steps: int) -> Progress:
    return Progress(stage=stage, item_index=index, step=step, steps=steps)


def _blocked(index: int) -> Log:
    text = "the model's safety checker replaced this picture with a black one"
    return Log(level="WARNING", code="safety.blocked", message=text, item_index=index)


def _untiled() -> Log:
    text = "this pipeline cannot decode in tiles: it may need more memory than the preset says"
    return Log(level="WARNING", code="preset.no_tiles", message=text)


def _cut(cut: Truncation) -> Log:
    text = (
        f"{cut.field}: {cut.reader} reads {cut.limit} tokens of {cut.tokens}; "
        f"not read: {cut.words[:MAX_SHOWN]!r}"
    )
    return Log(
        level="WARNING",
        code="prompt.truncated",
        message=text,
        payload={
            "field": cut.field,
            "reader": cut.reader,
            "tokens": cut.tokens,
            "limit": cut.limit,
            "cut": cut.words,
        },
    )
