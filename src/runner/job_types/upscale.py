"""The `upscale` job type: the pictures of the step before, one after another, made larger."""

import io
from collections.abc import Callable
from functools import partial

import PIL.Image
from PIL.Image import Image

from runner.images.decode import PILLOW_FORMATS
from runner.images.metadata import EmbeddedMetadata, read_metadata
from runner.images.sender import encode_and_send
from runner.images.upscale_metadata import UpscaleFacts, describe_upscale
from runner.ipc.channel import Emit
from runner.job_types.base import Context, item_progress, run_items
from runner.job_types.host_models import obtain_model
from runner.upscalers.base import Upscaler
from runner.upscalers.diffusion import DiffusionUpscaler
from runner.upscalers.gan import GanUpscaler
from runner.upscalers.resample import ResampleUpscaler, resample
from shared.protocol.messages import (
    GanParams,
    InputSpec,
    Log,
    Progress,
    ResampleParams,
    UpscaleParams,
    UpscaleSpec,
)


def load(spec: UpscaleSpec, check: Callable[[], None]) -> Upscaler:
    """The upscaler of the step. Raises `ModelUnavailable` when its files are not as promised."""
    params, model = spec.params, obtain_model(spec, check)
    if isinstance(params, ResampleParams):
        return ResampleUpscaler(params)
    assert model is not None and spec.model is not None, "the spec was checked on arrival"
    if isinstance(params, GanParams):
        return GanUpscaler(model.loaded, spec.model, params, spec.preset)
    return DiffusionUpscaler(model.loaded, spec.model, params, spec.preset)


class Upscale:
    """Image to larger image with the upscaler of `load`. Seeds stay those of the inputs."""

    def __init__(self) -> None:
        self._ctx: Context[UpscaleSpec] | None = None
        self._upscaler: Upscaler | None = None

    def prepare(self, ctx: Context[UpscaleSpec]) -> None:
        ctx.emit(Progress(stage="load", step=0, steps=1))
        self._ctx = ctx
        self._upscaler = load(ctx.spec, ctx.stop.check)
        for remark in self._upscaler.remarks:
            ctx.emit(remark)
        ctx.emit(Progress(stage="load", step=1, steps=1))

    def run(self, params: UpscaleParams, emit: Emit) -> int:
        assert self._ctx is not None, "run before prepare"
        return run_items(self._ctx, params.count, partial(self._item, params, emit))

    def cleanup(self) -> None:
        self._ctx = None
        self._upscaler = None

    def _item(self, params: UpscaleParams, emit: Emit, index: int) -> Callable[[], None]:
        assert self._ctx is not None and self._upscaler is not None
        ctx, source = self._ctx, self._ctx.spec.inputs[index]

        def on_step(done: int, total: int) -> None:
            emit(item_progress("sampling", index, done, total))
            ctx.stop.check()

        emit(item_progress("sampling", index, 0, 1))
        image, before = open_input(ctx.inputs.pull(index), source)
        larger = self._upscaler.enlarge(image, source, on_step)
        emit(item_progress("decode", index, 0, 1))
        native, size = larger.size, (image.width * params.scale, image.height * params.scale)
        if native != size:
            emit(_resampled(index, native, size))
            larger = resample(larger, size)
        facts = UpscaleFacts(
            spec=ctx.spec,
            source=source,
            upscaler=self._upscaler.name,
            native=native,
            size=size,
            before=before,
            versions=ctx.versions,
        )
        emit(item_progress("decode", index, 1, 1))
        metadata = describe_upscale(facts)
        return partial(encode_and_send, larger, index, source.seed, params, metadata, emit)


def open_input(data: bytes, source: InputSpec) -> tuple[Image, EmbeddedMetadata]:
    """The picture in a file of the step before, and what it says about itself.

    Its bytes are the right ones, but another process made them: format and size are compared before
    anything is decoded. Raises ValueError or OSError for a file that is not as promised.
    """
    image = PIL.Image.open(io.BytesIO(data), formats=[PILLOW_FORMATS[source.format]])
    if image.size != (source.width, source.height):
        raise ValueError(f"the input is {image.width}x{image.height} pixels, not as its row says")
    image.load()
    return image, read_metadata(image)


def _resampled(index: int, native: tuple[int, int], size: tuple[int, int]) -> Log:
    return Log(
        level="WARNING",
        code="scale.resampled",
        message=f"the upscaler made {native[0]}x{native[1]}; resampled to {size[0]}x{size[1]}, "
        "which was asked for (`strict_scale` refuses that)",
        item_index=index,
    )
