"""The `upscale` job type: the pictures of the step before, one after another, made larger.

A picture is encoded and sent while the next one is enlarged (`runner.images.sender`).
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import PIL.Image
from PIL.Image import Image

from runner.diffusion.model_folder import guard_unchanged
from runner.images.metadata import EmbeddedMetadata, read_metadata
from runner.images.sender import ImageSender, send
from runner.images.upscale_metadata import UpscaleFacts, describe_upscale
from runner.ipc.channel import Emit
from runner.job_types.base import Context
from runner.upscalers.base import Upscaler
from runner.upscalers.diffusion import DiffusionUpscaler
from runner.upscalers.gan import GanUpscaler
from runner.upscalers.resample import ResampleUpscaler, resample
from shared.models.verify import check_installed
from shared.protocol.messages import (
    DiffusionParams,
    GanParams,
    InputSpec,
    Log,
    ModelSpec,
    Progress,
    ResampleParams,
    Stage,
    UpscaleParams,
    UpscaleSpec,
)

_PILLOW_FORMATS = {"png": "PNG", "jpg": "JPEG"}


def load(spec: UpscaleSpec) -> Upscaler:
    """What the step asks for. Raises `ModelUnavailable` when its files are not as promised."""
    if isinstance(spec.params, ResampleParams):
        return ResampleUpscaler(spec.params)
    assert spec.model is not None, "the spec was checked on arrival"
    folder = Path(spec.model.folder)
    with guard_unchanged(folder):
        check_installed(folder, checkpoint_sha256=spec.model.checkpoint_sha256)
        return _loaded(spec, spec.model)


def _loaded(spec: UpscaleSpec, model: ModelSpec) -> Upscaler:
    match spec.params:
        case GanParams() as params:
            return GanUpscaler(model, params, spec.preset)
        case DiffusionParams() as params:
            return DiffusionUpscaler(model, params, spec.preset)
        case ResampleParams():
            raise AssertionError("resampling loads nothing")


class Upscale:
    """Image to larger image with what `load` gives. Seeds stay those of the inputs."""

    def __init__(self) -> None:
        self._ctx: Context[UpscaleSpec] | None = None
        self._upscaler: Upscaler | None = None

    def prepare(self, ctx: Context[UpscaleSpec]) -> None:
        ctx.emit(Progress(stage="load", step=0, steps=1))
        self._ctx = ctx
        self._upscaler = load(ctx.spec)
        ctx.emit(Progress(stage="load", step=1, steps=1))

    def run(self, params: UpscaleParams, emit: Emit) -> int:
        assert self._ctx is not None, "run before prepare"
        todo = [i for i in range(params.count) if i not in self._ctx.spec.done_items]
        with ImageSender() as finisher:
            for index in todo:
                self._ctx.stop.check()
                self._item(index, params, emit, finisher)
        return len(todo)

    def cleanup(self) -> None:
        self._ctx = None
        self._upscaler = None

    def _item(self, index: int, params: UpscaleParams, emit: Emit, finisher: ImageSender) -> None:
        assert self._ctx is not None and self._upscaler is not None
        ctx, given = self._ctx, self._ctx.spec.inputs[index]

        def on_step(done: int, total: int) -> None:
            emit(_progress("sampling", index, done, total))
            ctx.stop.check()

        emit(_progress("sampling", index, 0, 1))
        image, texts = open_input(ctx.inputs.pull(index), given)
        larger = self._upscaler.enlarge(image, given, on_step)
        emit(_progress("decode", index, 0, 1))
        native, size = larger.size, (image.width * params.scale, image.height * params.scale)
        if native != size:
            emit(_resampled(index, native, size))
            larger = resample(larger, size)
        facts = UpscaleFacts(
            spec=ctx.spec,
            given=given,
            upscaler=self._upscaler.name,
            native=native,
            size=size,
            before=texts,
            versions=ctx.versions,
        )
        emit(_progress("decode", index, 1, 1))
        told = describe_upscale(facts)
        finisher.put(index, partial(send, larger, index, given.seed, params, told, emit))


def open_input(data: bytes, given: InputSpec) -> tuple[Image, EmbeddedMetadata]:
    """The picture in a file of the step before, and what it says about itself.

    Its bytes are the right ones, but another process made them: the format and the size are looked
    at before anything is decoded. Raises ValueError or OSError for a file that is not as promised.
    """
    image = PIL.Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS[given.format]])
    if image.size != (given.width, given.height):
        raise ValueError(f"the input is {image.width}x{image.height} pixels, not as its row says")
    image.load()
    return image, read_metadata(image)


def _progress(stage: Stage, index: int, step: int, steps: int) -> Progress:
    return Progress(stage=stage, item_index=index, step=step, steps=steps)


def _resampled(index: int, native: tuple[int, int], size: tuple[int, int]) -> Log:
    return Log(
        level="WARNING",
        code="scale.resampled",
        message=f"the upscaler made {native[0]}x{native[1]}; resampled to {size[0]}x{size[1]}, "
        "which was asked for (`strict_scale` refuses that)",
        item_index=index,
    )
