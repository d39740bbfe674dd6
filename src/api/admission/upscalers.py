"""Which upscaler a request means: the one that it names, or the one that suits it.

`auto` takes the first of these that there is: a GAN made for the scale, a diffusion upscaler made
for it, a GAN made for another scale, a diffusion upscaler made for another scale; with
`strict_scale` the first two only. `gan` and `diffusion` go through their own half of the list.
A network that restores a picture and enlarges nothing counts only where the request names it, and
the upscaler that ships with us, which was made for the demo model, only where there is no other.
Only upscalers count that are enabled and, if any worker lives, installed on one. Two that are
equally good are not chosen between: the request must name one.
"""

from collections.abc import Sequence

from api.admission.models import check_readable, find_model
from api.schemas.requests import Upscale
from shared.db.models import Model
from shared.db.workers import Worker
from shared.errors import InvalidInput, ModelUnavailable
from shared.models.families import family_of

RESAMPLE = "resample"
CAPABILITY = "upscale"
SHIPPED = "dreamforge:"  # how the source of a model begins that ships with us


def impl_of(model: Model) -> str:
    """`gan` or `diffusion`."""
    upscaling = family_of(model.kind).upscaling
    assert upscaling is not None  # its capability says so
    return upscaling


def scale_of(model: Model) -> int:
    """How many times as large the upscaler makes a side, by itself."""
    scale = model.descriptor["scale"]
    assert isinstance(scale, int)  # the descriptor was checked when it was registered
    return scale


def choose_upscaler(
    request: Upscale, models: Sequence[Model], live: Sequence[Worker]
) -> Model | None:
    """The upscaler; None for `resample`. Raises `InvalidInput`, `ModelUnavailable`."""
    if request.impl == RESAMPLE:
        if request.model_id is not None:
            raise _invalid("model_id", "resample uses no model; leave one of the two out")
        return None
    if request.model_id is not None:
        return _named(request, request.model_id, models)
    enlarging = [model for model in models if _is_usable(model, live) and scale_of(model) > 1]
    installed = [model for model in enlarging if not _ships(model)]
    best = _best(request, installed) or _best(request, enlarging)
    if best is None:
        raise _none_fits(request, enlarging)
    check_readable(best)
    return best


def _ships(model: Model) -> bool:
    source = model.descriptor.get("source", {})
    return str(source.get("uri", "")).startswith(SHIPPED)


def _is_usable(model: Model, live: Sequence[Worker]) -> bool:
    if CAPABILITY not in model.capabilities or not model.enabled:
        return False
    return not live or any(worker.has_model(model.id, model.checkpoint_sha256) for worker in live)


def _best(request: Upscale, usable: Sequence[Model]) -> Model | None:
    """The only member of the first group, in the order that the module documents; None: no group.

    Raises `InvalidInput` for a group of several.
    """
    impls = ("gan", "diffusion") if request.impl == "auto" else (request.impl,)
    groups = (
        [m for m in usable if impl_of(m) == impl and (scale_of(m) == request.scale) is native]
        for native in ((True,) if request.strict_scale else (True, False))
        for impl in impls
    )
    best = next(filter(None, groups), None)
    if best is None:
        return None
    if len(best) > 1:
        names = [model.label for model in best]
        raise _invalid(
            "model_id", f"several would do, name one of: {', '.join(names)}", models=names
        )
    return best[0]


def _named(request: Upscale, reference: str, models: Sequence[Model]) -> Model:
    model = find_model(models, reference)
    if model is None:
        raise _unavailable("no such model; GET /v1/models lists them")
    check_readable(model)
    if CAPABILITY not in model.capabilities:
        able = [each.label for each in models if CAPABILITY in each.capabilities]
        raise _invalid(
            "model_id",
            f"{model.label} cannot upscale; these can: {', '.join(able) or 'none is installed'}",
            models=able,
        )
    if not model.enabled:
        raise _unavailable(f"{model.label} is disabled by the operator")
    if request.impl not in ("auto", impl_of(model)):
        raise _invalid("impl", f"{model.label} is a {impl_of(model)} upscaler, not {request.impl}")
    if request.strict_scale and scale_of(model) != request.scale:
        makes = f"makes pictures {scale_of(model)} times as large"
        raise _invalid(
            "scale",
            f"{model.label} {makes if scale_of(model) > 1 else 'restores and does not enlarge'}, "
            "and strict_scale allows no other",
            native_scale=scale_of(model),
        )
    return model


def _none_fits(request: Upscale, usable: Sequence[Model]) -> InvalidInput:
    if request.strict_scale and usable:
        scales = ", ".join(f"{model.label} ({scale_of(model)})" for model in usable)
        return _invalid(
            "scale",
            f"no upscaler was made for scale {request.scale}, and strict_scale allows no other; "
            f"there are {scales}",
        )
    problem = f"{request.impl!r} is not available"
    if request.impl == "auto":
        problem = "'auto' finds no upscaler that adds detail, and never chooses 'resample' itself"
    available = [RESAMPLE, *sorted({impl_of(model) for model in usable})]
    return _invalid("impl", f"{problem}; available: {', '.join(available)}", available=available)


def _unavailable(problem: str) -> ModelUnavailable:
    field = "chain.upscale.model_id"
    return ModelUnavailable(f"{field}: {problem}", field=field)


def _invalid(field: str, problem: str, **details: object) -> InvalidInput:
    return InvalidInput(
        f"chain.upscale.{field}: {problem}", field=f"chain.upscale.{field}", **details
    )
