"""`chain.upscale`: the second step of a job, with everything pinned, or a refusal.

It runs where the first one ran: same preset, device, queue and time limit. `resample` loads no
model, so it needs none of the device's memory on a GPU, and on a CPU what the process itself takes.
"""

from __future__ import annotations

from uuid import uuid4

from api.requests import CreateJob, Upscale
from shared.db.create import NewStep
from shared.errors import InvalidInput
from shared.messages import GenerateParams, ResampleParams
from shared.presets import Preset

NAME = "upscale"
# What this release can do at all; `auto` chooses among those that invent detail.
IMPLEMENTATIONS = ("resample",)

# Measured on a runner that resamples pictures of up to 9 megapixels: 400 MB of imports, 13 bytes
# for each pixel of the result, with half as much again for the allocator.
RESAMPLE_BASE_BYTES = 536_870_912
RESAMPLE_BYTES_PER_PIXEL = 20


def upscale_step(
    body: CreateJob, first: NewStep, params: GenerateParams, preset: Preset
) -> NewStep | None:
    """The step that enlarges what `first` makes; None when nobody asked for one.

    Raises `InvalidInput` for an implementation that there is not, and for too many pixels.
    """
    asked = None if body.chain is None else body.chain.upscale
    if asked is None:
        return None
    _check_available(asked)
    pixels = _pixels(asked, params, preset)
    chosen = ResampleParams(
        scale=asked.scale,
        count=params.count,
        format=params.format,
        embed_metadata=params.embed_metadata,
        jpeg_quality=params.jpeg_quality,
    )
    return NewStep(
        id=uuid4(),
        name=NAME,
        type=NAME,
        params=chosen.model_dump(mode="json"),
        queue=first.queue,
        device=first.device,
        preset=preset.pinned(None),
        vram_bytes=_resample_bytes(preset, pixels),
        timeout_s=first.timeout_s,
        model_id=None,
        checkpoint_sha256=None,
    )


def _check_available(asked: Upscale) -> None:
    if asked.impl in IMPLEMENTATIONS:
        return
    available = ", ".join(IMPLEMENTATIONS)
    problem = f"{asked.impl!r} is not available"
    if asked.impl == "auto":
        problem = "'auto' finds no upscaler that adds detail, and never chooses 'resample' itself"
    raise InvalidInput(
        f"chain.upscale.impl: {problem}; available: {available}",
        field="chain.upscale.impl",
        available=list(IMPLEMENTATIONS),
    )


def _pixels(asked: Upscale, params: GenerateParams, preset: Preset) -> int:
    width, height = params.width * asked.scale, params.height * asked.scale
    if width * height > preset.max_pixels:
        raise InvalidInput(
            f"chain.upscale.scale: {width}x{height} are {width * height} pixels, more than preset "
            f"{preset.name!r} allows, {preset.max_pixels}",
            field="chain.upscale.scale",
            maximum_pixels=preset.max_pixels,
        )
    return width * height


def _resample_bytes(preset: Preset, pixels: int) -> int:
    if preset.device != "cpu":
        return 0
    return RESAMPLE_BASE_BYTES + RESAMPLE_BYTES_PER_PIXEL * pixels
