"""Which upscaler a request means: the one that it names, or the one that suits it.

`auto` takes the first of these that there is: a GAN made for the scale, a diffusion upscaler made
for it, a GAN made for another scale, a diffusion upscaler made for another scale; with
`strict_scale` the first two only. `gan` and `diffusion` go through their own half of the list.
Only upscalers count that are enabled and, if any worker lives, installed on one. Two that are
equally good are not chosen between: the request must name one.
"""

from __future__ import annotations

from collections.abc import Sequence

from api.schemas.requests import Upscale
from shared.db.models import Model
from shared.db.workers import Worker
from shared.errors import InvalidInput, ModelUnavailable
from shared.models.families import UPSCALING_OF

RESAMPLE = "resample"
CAPABILITY = "upscale"


def impl_of(model: Model) -> str:
    """`gan` or `diffusion`."""
    return next(impl for kind, impl in UPSCALING_OF.items() if kind == model.kind)


def scale_of(model: Model) -> int:
    """How many times as large the upscaler makes a side, by itself."""
    scale = model.descriptor["scale"]
    assert isinstance(scale, int)  # the descriptor was checked when it was registered
    return scale


def choose(asked: Upscale, models: Sequence[Model], live: Sequence[Worker]) -> Model | None:
    """The upscaler; None for `resample`. Raises `InvalidInput`, `ModelUnavailable`."""
    usable = [model for model in models if CAPABILITY in model.capabilities and model.enabled]
    if asked.impl == RESAMPLE:
        if asked.model_id is not None:
            raise _wrong("model_id", "resample uses no model; leave one of the two out")
        return None
    if asked.model_id is not None:
        return _named(asked, asked.model_id, models)
    installed = [model for model in usable if not live or _on_a_worker(model, live)]
    impls = ("gan", "diffusion") if asked.impl == "auto" else (asked.impl,)
    groups = [
        [m for m in installed if impl_of(m) == impl and (scale_of(m) == asked.scale) is native]
        for native in ((True,) if asked.strict_scale else (True, False))
        for impl in impls
    ]
    best = next((group for group in groups if group), [])
    if len(best) > 1:
        names = [_name(model) for model in best]
        raise _wrong("model_id", f"several would do, name one of: {', '.join(names)}", models=names)
    return best[0] if best else _refuse(asked, installed)


def _named(asked: Upscale, reference: str, models: Sequence[Model]) -> Model:
    found = next((m for m in models if reference in (str(m.id), m.name, _name(m))), None)
    if found is None:
        raise ModelUnavailable("chain.upscale.model_id: no such model; GET /v1/models lists them")
    if CAPABILITY not in found.capabilities:
        able = [_name(model) for model in models if CAPABILITY in model.capabilities]
        raise _wrong(
            "model_id",
            f"{_name(found)} cannot upscale; these can: {', '.join(able) or 'none is installed'}",
            models=able,
        )
    if not found.enabled:
        raise ModelUnavailable(f"model {_name(found)} is disabled by the operator")
    if asked.impl not in ("auto", impl_of(found)):
        raise _wrong("impl", f"{_name(found)} is a {impl_of(found)} upscaler, not {asked.impl}")
    if asked.strict_scale and scale_of(found) != asked.scale:
        raise _wrong(
            "scale",
            f"{_name(found)} makes pictures {scale_of(found)} times as large, and strict_scale "
            "allows no other",
            native_scale=scale_of(found),
        )
    return found


def _refuse(asked: Upscale, installed: Sequence[Model]) -> Model:
    available = [RESAMPLE, *sorted({impl_of(model) for model in installed})]
    problem = f"{asked.impl!r} is not available"
    if asked.impl == "auto":
        problem = "'auto' finds no upscaler that adds detail, and never chooses 'resample' itself"
    if asked.strict_scale and installed:
        natives = ", ".join(f"{_name(model)} ({scale_of(model)})" for model in installed)
        problem = f"no upscaler was made for scale {asked.scale}, and strict_scale allows no other"
        raise _wrong("scale", f"{problem}; there are {natives}")
    raise _wrong("impl", f"{problem}; available: {', '.join(available)}", available=available)


def _on_a_worker(model: Model, live: Sequence[Worker]) -> bool:
    return any(worker.models.get(model.id) == model.checkpoint_sha256 for worker in live)


def _name(model: Model) -> str:
    return f"{model.name}@{model.version}"


def _wrong(field: str, problem: str, **details: object) -> InvalidInput:
    return InvalidInput(
        f"chain.upscale.{field}: {problem}", field=f"chain.upscale.{field}", **details
    )
