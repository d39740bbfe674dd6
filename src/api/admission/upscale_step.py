"""`chain.upscale`: the second step of a job, with everything pinned, or a refusal.

It runs where the first one ran: same preset, device, queue and time limit. How large its pictures
may be is a limit of its own: an upscaler works in tiles and has room for far more than could be
generated.
"""

from typing import Any
from uuid import uuid4

from api.admission.models import unreadable
from api.admission.resolve import Resolved
from api.admission.upscalers import impl_of, scale_of
from api.schemas.requests import Upscale
from shared.db.insert_job import NewStep
from shared.db.models import Model
from shared.errors import InvalidInput
from shared.protocol.messages import (
    DiffusionParams,
    EnlargeParams,
    GanParams,
    GenerateParams,
    ResampleParams,
)

NAME = "upscale"
MAX_WEBP_SIDE = 16_383  # of the format; one of four times 4096 is over it


def upscale_step(
    request: Upscale, first: NewStep, params: GenerateParams, resolved: Resolved
) -> NewStep:
    """The step that enlarges what `first` makes of `params`.

    Raises `InvalidInput` for too many pixels, and for a picture that the upscaler cannot take;
    `ModelUnavailable` for an upscaler whose row cannot be read.
    """
    upscaler = resolved.upscaler
    _check_pixels(request, params, resolved)
    # An upscaler for another scale makes a larger picture on the way.
    scale = request.scale if upscaler is None else max(request.scale, scale_of(upscaler))
    budget = resolved.budget(upscaler, params.width * params.height * scale**2)
    return NewStep(
        id=uuid4(),
        name=NAME,
        type=NAME,
        params=_params(request, params, upscaler).model_dump(mode="json"),
        queue=first.queue,
        device=first.device,
        preset=budget.pinned,
        vram_bytes=budget.vram_bytes,
        timeout_s=first.timeout_s,
        model_id=None if upscaler is None else upscaler.id,
        checkpoint_sha256=None if upscaler is None else upscaler.checkpoint_sha256,
    )


def _params(request: Upscale, params: GenerateParams, upscaler: Model | None) -> EnlargeParams:
    shared = {"count", "format", "embed_metadata", "jpeg_quality", "webp_quality"}
    common = params.model_dump(include=shared) | {"scale": request.scale}
    if upscaler is None:
        return ResampleParams(**common)
    _check_input(params, upscaler)
    try:
        return _with_model(common | {"native_scale": scale_of(upscaler)}, params, upscaler)
    except ValueError:  # figures that no upscaler of ours has
        raise unreadable(upscaler) from None


def _with_model(
    common: dict[str, Any], params: GenerateParams, upscaler: Model
) -> GanParams | DiffusionParams:
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


def _check_pixels(request: Upscale, params: GenerateParams, resolved: Resolved) -> None:
    """Check the result's size, and the size of what an upscaler for another scale makes first."""
    pictures: list[tuple[int, str, Model | None]] = [(request.scale, "", None)]
    if (upscaler := resolved.upscaler) is not None:
        pictures.append((scale_of(upscaler), f"by {upscaler.name} ", upscaler))
    for scale, by, model in pictures:
        width, height = params.width * scale, params.height * scale
        limit = resolved.budget(model, width * height).max_pixels
        if params.format == "webp" and max(width, height) > MAX_WEBP_SIDE:
            raise InvalidInput(
                f"format: a webp has sides of up to {MAX_WEBP_SIDE} pixels, and this would be "
                f"{width}x{height}",
                field="format",
                maximum=MAX_WEBP_SIDE,
            )
        if width * height > limit:
            raise InvalidInput(
                f"chain.upscale.scale: {width}x{height} {by}are {width * height} pixels, more "
                f"than preset {resolved.preset.name!r} allows, {limit}",
                field="chain.upscale.scale",
                maximum_pixels=limit,
            )


def _check_input(params: GenerateParams, upscaler: Model) -> None:
    """Check the first step's picture: an upscaler's schema bounds the sides of its input."""
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
