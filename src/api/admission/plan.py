"""From a request to a job with everything pinned, or a refusal that names the field and its limit.

All that can be known before the job exists is checked here: a refusal costs a millisecond, a
failure on the GPU costs minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import uuid4

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from api.admission.upscale_step import upscale_step
from api.schemas.requests import CreateJob
from shared.db.create_job import IdempotencyKey, NewJob, NewStep
from shared.db.models import Model
from shared.db.workers import Worker, largest_slot_bytes, slots_for
from shared.errors import InsufficientVram, InvalidInput, ModelUnavailable
from shared.models.descriptor import parts_of
from shared.presets import Preset, preset
from shared.protocol.messages import GenerateParams
from shared.settings import Settings

QUEUE = "default"
DEFAULT_PRESET = "cpu"
# What a model's schema may fill in and bound. The prompt is everybody's.
_BY_MODEL = (
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "scheduler",
    "count",
    "format",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, and under which ids."""

    user: str
    correlation_id: str
    client_request_id: str | None
    traceparent: str | None
    key: IdempotencyKey | None


def plan_job(
    body: CreateJob,
    model: Model,
    caller: Caller,
    settings: Settings,
    *,
    upscaler: Model | None = None,
) -> NewJob:
    """The job that `body` asks for, with `upscaler` for its second step.

    Raises `InvalidInput`, `ModelUnavailable`.
    """
    _refuse_disabled(model)
    _refuse_incapable(body, model)
    params = _generate_params(body, model, settings)
    name = body.preset or model.descriptor.get("default_preset") or DEFAULT_PRESET
    chosen = preset(name, settings.presets_dir)
    _check_preset(params, chosen, model)
    step = NewStep(
        id=uuid4(),
        name="generate",
        type="generate",
        params=params.model_dump(mode="json"),
        queue=QUEUE,
        device=chosen.device,
        preset=chosen.pinned(model.kind),
        vram_bytes=chosen.vram_for(
            model.kind, params.width * params.height, parts_of(model.descriptor)
        ),
        timeout_s=_timeout_s(body, chosen, settings),
        model_id=model.id,
        checkpoint_sha256=model.checkpoint_sha256,
    )
    second = upscale_step(body, step, params, chosen, upscaler)
    return NewJob(
        id=uuid4(),
        type=body.type,
        user=caller.user,
        request=body.model_dump(mode="json", exclude_unset=True),
        count=body.count,
        correlation_id=caller.correlation_id,
        client_request_id=caller.client_request_id,
        traceparent=caller.traceparent,
        key=caller.key,
        steps=[
            _corrected(each, settings) for each in ([step] if second is None else [step, second])
        ],
    )


def _corrected(step: NewStep, settings: Settings) -> NewStep:
    """The operator knows better than the presets' figures; the step records that it was so."""
    factor = settings.vram_factor
    if factor == 1:
        return step
    return replace(
        step,
        vram_bytes=math.ceil(step.vram_bytes * factor),
        preset=step.preset | {"vram_factor": factor},
    )


def refuse_impossible(job: NewJob, live: Sequence[Worker]) -> None:
    """Raise when workers are there and none could ever run a step: `ModelUnavailable` where none
    has its model, `InsufficientVram` where no slot of those that have it is large enough.

    With no worker at all the job waits: one that is about to start may well be able to.
    """
    if not live:
        return
    for step in job.steps:
        able = [worker for worker in live if _has_model(worker, step)]
        if not able:
            raise _nowhere(step, live)
        if largest_slot_bytes(able, device=step.device, queue=step.queue) < step.vram_bytes:
            raise _too_small(step, able)


def _has_model(worker: Worker, step: NewStep) -> bool:
    if step.model_id is None:
        return True
    return worker.models.get(step.model_id) == step.checkpoint_sha256


def _nowhere(step: NewStep, live: Sequence[Worker]) -> ModelUnavailable:
    return ModelUnavailable(
        f"no live worker has a verified copy of the model of step {step.name!r}. On a worker's "
        "host `dreamforge model import` or `download` brings one in, and `dreamforge model verify` "
        "says what is wrong with one that is there; workers look again every few seconds.",
        step=step.name,
        model_id=str(step.model_id),
        live_workers=len(live),
    )


def _too_small(step: NewStep, able: Sequence[Worker]) -> InsufficientVram:
    largest = largest_slot_bytes(able, device=step.device, queue=step.queue)
    return InsufficientVram(
        f"step {step.name!r} needs {step.vram_bytes} bytes on a {step.device} device "
        f"(preset {step.preset['name']!r}); the largest slot of any live worker that has its model "
        f"has {largest}. Choose another preset or model, or add a worker.",
        step=step.name,
        preset=step.preset["name"],
        device=step.device,
        required_bytes=step.vram_bytes,
        largest_slot_bytes=largest,
        live_workers=len(able),
        slots=[
            {
                "class": slot.device_class,
                "state": slot.state,
                "total_bytes": slot.capacity_bytes,
                "free_bytes": slot.free_bytes,
                "holders": dict(slot.holders),
            }
            for slot in slots_for(able, device=step.device, queue=step.queue)
        ],
    )


def _refuse_disabled(model: Model) -> None:
    if not model.enabled:
        raise ModelUnavailable(
            f"model {model.name}@{model.version} is disabled by the operator; "
            "`GET /v1/models` shows which are not",
            model_id=str(model.id),
        )


def _refuse_incapable(body: CreateJob, model: Model) -> None:
    if body.type not in model.capabilities:
        raise InvalidInput(
            f"model_id: {model.name}@{model.version} cannot {body.type}; "
            f"it can: {', '.join(model.capabilities) or 'nothing'}",
            field="model_id",
            capabilities=list(model.capabilities),
        )


def _generate_params(body: CreateJob, model: Model, settings: Settings) -> GenerateParams:
    """The request with the model's defaults filled in, checked against the model's schema."""
    rules: dict[str, Any] = model.parameters_schema.get("properties", {})
    chosen = {name: getattr(body, name) for name in _BY_MODEL}
    for name, value in chosen.items():
        if value is None:
            chosen[name] = rules.get(name, {}).get("default")
    _check_schema(model, {name: chosen[name] for name in _BY_MODEL if name in rules})
    missing = [name for name in ("width", "height", "steps", "guidance") if chosen[name] is None]
    if missing:
        raise InvalidInput(
            f"{missing[0]}: model {model.name} has no default for it, so the request must say",
            field=missing[0],
        )
    chosen["guidance"] = float(chosen["guidance"])
    return GenerateParams(
        prompt=body.prompt,
        seed=body.seed,
        embed_metadata=body.embed_metadata,
        jpeg_quality=settings.jpeg_quality,
        **chosen,
    )


def _check_schema(model: Model, values: dict[str, Any]) -> None:
    found = sorted(
        Draft202012Validator(model.parameters_schema).iter_errors(values),
        key=lambda error: list(map(str, error.path)),
    )
    if not found:
        return
    errors = [_finding(error) for error in found]
    raise InvalidInput(
        f"{errors[0]['field']}: {errors[0]['message']} (model {model.name}@{model.version})",
        errors=errors,
        model_id=str(model.id),
    )


def _finding(error: ValidationError) -> dict[str, Any]:
    field = ".".join(map(str, error.path))
    rule, value = str(error.validator), cast("Any", error.validator_value)
    message = error.message
    if rule == "enum":
        message = f"must be one of: {', '.join(str(name or 'null') for name in value)}"
    elif rule in ("maxLength", "maximum") and value == 0:
        message = "this model has no use for it; leave it out"
    return {"field": field, "message": message, rule: value}


def _check_preset(params: GenerateParams, chosen: Preset, model: Model) -> None:
    pixels, limit = params.width * params.height, chosen.max_pixels_for(model.kind)
    if pixels > limit:
        raise InvalidInput(
            f"width, height: {pixels} pixels are more than preset {chosen.name!r} allows, {limit}",
            field="width",
            maximum_pixels=limit,
        )
    if params.steps > chosen.max_steps:
        raise InvalidInput(
            f"steps: {params.steps} are more than preset {chosen.name!r} allows, "
            f"{chosen.max_steps}",
            field="steps",
            maximum=chosen.max_steps,
        )


def _timeout_s(body: CreateJob, chosen: Preset, settings: Settings) -> float:
    if body.timeout_s is None:
        return min(chosen.timeout_s, settings.max_timeout_s)
    if body.timeout_s > settings.max_timeout_s:
        raise InvalidInput(
            f"timeout_s: at most {settings.max_timeout_s:g} here",
            field="timeout_s",
            maximum=settings.max_timeout_s,
        )
    return body.timeout_s
