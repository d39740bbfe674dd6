"""`chain.upscale`: the second step of a job, with everything pinned, or a refusal.

It runs where the first one ran: same preset, device, queue and time limit. How large its pictures
may be is a limit of its own: what works in pieces has room for far more than could be generated.
`resample` loads no model, so it needs none of the device's memory on a GPU, and on a CPU what the
process itself takes.
"""

from __future__ import annotations

from uuid import uuid4

from api.admission.upscalers import RESAMPLE, impl_of, scale_of
from api.schemas.requests import CreateJob, Upscale
from shared.db.create_job import NewStep
from shared.db.models import Model
from shared.errors import InvalidInput
from shared.models.descriptor import parts_of
from shared.presets import Preset
from shared.protocol.messages import (
    DiffusionParams,
    EnlargeParams,
    GanParams,
    GenerateParams,
    ResampleParams,
)

NAME = "upscale"

# Measured on a runner that resamples pictures of up to 9 megapixels: 400 MB of imports, 13 bytes
# for each pixel of the result, with half as much again for the allocator.
RESAMPLE_BASE_BYTES = 536_870_912
RESAMPLE_BYTES_PER_PIXEL = 20


def upscale_step(
    body: CreateJob,
    first: NewStep,
    params: GenerateParams,
    preset: Preset,
    upscaler: Model | None,
) -> NewStep | None:
    """The step that enlarges what `first` makes with `upscaler`; None when nobody asked for one.

    Raises `InvalidInput` for too many pixels, and for a picture that the upscaler cannot take.
    """
    asked = None if body.chain is None else body.chain.upscale
    if asked is None:
        return None
    assert (upscaler is None) == (asked.impl == RESAMPLE), "chosen by api.admission.upscalers"
    _check_pixels(asked, params, preset, upscaler)
    return NewStep(
        id=uuid4(),
        name=NAME,
        type=NAME,
        params=_params(asked, params, upscaler).model_dump(mode="json"),
        queue=first.queue,
        device=first.device,
        preset=preset.pinned(None if upscaler is None else upscaler.kind),
        vram_bytes=_bytes(asked, params, preset, upscaler),
        timeout_s=first.timeout_s,
        model_id=None if upscaler is None else upscaler.id,
        checkpoint_sha256=None if upscaler is None else upscaler.checkpoint_sha256,
    )


def _params(asked: Upscale, params: GenerateParams, upscaler: Model | None) -> EnlargeParams:
    kept = {"count", "format", "embed_metadata", "jpeg_quality"}
    common = params.model_dump(include=kept) | {"scale": asked.scale}
    if upscaler is None:
        return ResampleParams(**common)
    _check_input(params, upscaler)
    common["native_scale"] = scale_of(upscaler)
    if impl_of(upscaler) == "gan":
        return GanParams(**common)
    defaults = upscaler.descriptor["defaults"]
    return DiffusionParams(
        **common,
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        steps=defaults["steps"],
        guidance=float(defaults["guidance"]),
    )


def _check_pixels(
    asked: Upscale, params: GenerateParams, preset: Preset, upscaler: Model | None
) -> None:
    """What was asked for, and what an upscaler for another scale makes on the way to it."""
    limits: list[tuple[int, str, int]] = [(asked.scale, "", preset.max_pixels_for(None))]
    if upscaler is not None:
        by = f"by {upscaler.name} "
        limits.append((scale_of(upscaler), by, preset.max_pixels_for(upscaler.kind)))
    for scale, by, limit in limits:
        width, height = params.width * scale, params.height * scale
        if width * height > limit:
            raise InvalidInput(
                f"chain.upscale.scale: {width}x{height} {by}are {width * height} pixels, more "
                f"than preset {preset.name!r} allows, {limit}",
                field="chain.upscale.scale",
                maximum_pixels=limit,
            )


def _check_input(params: GenerateParams, upscaler: Model) -> None:
    """The upscaler's schema is about the sides of what it is given."""
    rules = upscaler.parameters_schema["properties"]
    for side in ("width", "height"):
        value, rule = getattr(params, side), rules[side]
        fits = rule["minimum"] <= value <= rule["maximum"] and value % rule["multipleOf"] == 0
        if not fits:
            raise InvalidInput(
                f"{side}: {upscaler.name} takes pictures of {rule['minimum']} to "
                f"{rule['maximum']} pixels in multiples of {rule['multipleOf']}",
                field=side,
                minimum=rule["minimum"],
                maximum=rule["maximum"],
                multipleOf=rule["multipleOf"],
            )


def _bytes(asked: Upscale, params: GenerateParams, preset: Preset, upscaler: Model | None) -> int:
    scale = asked.scale if upscaler is None else max(asked.scale, scale_of(upscaler))
    pixels = params.width * params.height * scale**2
    if upscaler is not None:
        return preset.vram_for(upscaler.kind, pixels, parts_of(upscaler.descriptor))
    if preset.device != "cpu":
        return 0
    return RESAMPLE_BASE_BYTES + RESAMPLE_BYTES_PER_PIXEL * pixels
