"""The `upscale` job type: the pictures of the step before, one after another, made larger."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Protocol

import PIL.Image
from PIL.Image import Image

from runner.images import encode_image
from runner.interface import Context, Emit
from runner.metadata import Texts, texts_in
from runner.resample import resampled
from runner.upscale_metadata import UpscaleFacts, upscale_texts
from shared.messages import Artifact, InputSpec, Progress, Stage, UpscaleParams, UpscaleSpec

_PILLOW_FORMATS = {"png": "PNG", "jpg": "JPEG"}


class Upscaler(Protocol):
    """One implementation, loaded. `name` is what the web UI would call it."""

    @property
    def name(self) -> str: ...

    def enlarge(self, image: Image, size: tuple[int, int], emit: Emit) -> Image:
        """`image` at `size` pixels, both sides larger by the scale that was asked for."""


class Resample:
    """Nothing to load, and done before anybody could ask how far it is."""

    name = "Lanczos"

    def __init__(self, _ctx: Context[UpscaleSpec]) -> None:
        pass

    def enlarge(self, image: Image, size: tuple[int, int], _emit: Emit) -> Image:
        return resampled(image, size)


UPSCALERS: dict[str, Callable[[Context[UpscaleSpec]], Upscaler]] = {"resample": Resample}


class Upscale:
    """Image to larger image with one of `UPSCALERS`. Seeds stay those of the inputs."""

    def __init__(self) -> None:
        self._ctx: Context[UpscaleSpec] | None = None
        self._upscaler: Upscaler | None = None

    def prepare(self, ctx: Context[UpscaleSpec]) -> None:
        ctx.emit(Progress(stage="load", step=0, steps=1))
        self._ctx = ctx
        self._upscaler = UPSCALERS[ctx.spec.params.impl](ctx)
        ctx.emit(Progress(stage="load", step=1, steps=1))

    def run(self, params: UpscaleParams, emit: Emit) -> int:
        assert self._ctx is not None, "run before prepare"
        todo = [i for i in range(params.count) if i not in self._ctx.spec.done_items]
        for index in todo:
            self._ctx.stop.check()
            self._item(index, params, emit)
        return len(todo)

    def cleanup(self) -> None:
        self._ctx = None
        self._upscaler = None

    def _item(self, index: int, params: UpscaleParams, emit: Emit) -> None:
        assert self._ctx is not None and self._upscaler is not None
        ctx, given = self._ctx, self._ctx.spec.inputs[index]
        emit(_progress("sampling", index, 0))
        image, texts = opened(ctx.inputs.pull(index), given)
        size = image.width * params.scale, image.height * params.scale
        larger = self._upscaler.enlarge(image, size, emit)
        emit(_progress("sampling", index, 1))
        emit(_progress("decode", index, 0))
        facts = UpscaleFacts(
            spec=ctx.spec,
            given=given,
            upscaler=self._upscaler.name,
            size=size,
            before=texts,
            versions=ctx.versions,
        )
        written = upscale_texts(facts) if params.embed_metadata else None
        data = encode_image(larger, params.format, written, jpeg_quality=params.jpeg_quality)
        artifact = Artifact(
            item_index=index,
            format=params.format,
            width=larger.width,
            height=larger.height,
            seed=given.seed,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        emit(artifact, data)
        emit(_progress("decode", index, 1))


def opened(data: bytes, given: InputSpec) -> tuple[Image, Texts]:
    """The picture in a file of the step before, and what it says about itself.

    Its bytes are the right ones, but another process made them: the format and the size are looked
    at before anything is decoded. Raises ValueError or OSError for a file that is not as promised.
    """
    image = PIL.Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS[given.format]])
    if image.size != (given.width, given.height):
        raise ValueError(f"the input is {image.width}x{image.height} pixels, not as its row says")
    image.load()
    return image, texts_in(image)


def _progress(stage: Stage, index: int, step: int) -> Progress:
    return Progress(stage=stage, item_index=index, step=step, steps=1)
