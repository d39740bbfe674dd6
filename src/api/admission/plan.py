"""Plan: from a request to a job with everything pinned, or a refusal that names the field. Pure.

All that can be known before the job exists is checked here: a refusal costs a millisecond, a
failure on the GPU costs minutes.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from api.admission.loras import lora_bytes
from api.admission.models import unreadable
from api.admission.pictures import Pictures, pin
from api.admission.resolve import Resolved
from api.admission.upscale_step import upscale_step
from api.schemas.requests import CreateJob
from api.webhooks.addresses import is_allowed, literal
from shared.db.insert_job import IdempotencyKey, NewJob, NewStep
from shared.db.models import Model
from shared.errors import InvalidInput
from shared.models.parameters import find_problems
from shared.models.picture_tasks import DEFAULT_STRENGTH
from shared.presets import StepBudget
from shared.protocol.messages import GenerateParams
from shared.settings import Settings
from shared.states import DEFAULT_QUEUE, Priority

# What a model's schema may fill in and bound. The prompt is the same for every model.
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
    """The user of a request, and the ids that it came with."""

    user: str
    correlation_id: str
    client_request_id: str | None
    traceparent: str | None
    key: IdempotencyKey | None


def plan_job(
    body: CreateJob, resolved: Resolved, pictures: Pictures, caller: Caller, settings: Settings
) -> NewJob:
    """The job that `body` asks for. Raises `InvalidInput`."""
    pictures.check(body)
    params = _generate_params(body, resolved, pictures, settings)
    steps = [_generate_step(body, params, resolved, pictures, settings)]
    if body.upscale is not None:
        steps.append(upscale_step(body.upscale, steps[0], params, resolved))
    return NewJob(
        id=uuid4(),
        type=body.type,
        user=caller.user,
        request=body.model_dump(mode="json", exclude_unset=True),
        count=body.count,
        priority=_priority(body, caller.user, settings),
        tags=body.tags,
        usage_tags=[key for key in settings.usage_tags if key in body.tags],
        webhook=_webhook(body, caller.user, settings),
        weight=settings.policy_of(caller.user).weight,
        correlation_id=caller.correlation_id,
        client_request_id=caller.client_request_id,
        traceparent=caller.traceparent,
        key=caller.key,
        steps=steps,
    )


def _priority(body: CreateJob, user: str, settings: Settings) -> Priority:
    policy = settings.policy_of(user)
    if body.priority is None:
        return policy.default_priority
    if body.priority not in policy.priorities:
        allowed = [str(each) for each in policy.priorities]
        raise InvalidInput(
            f"priority: the key {user!r} may not use {body.priority}; it may use: "
            f"{', '.join(allowed)}",
            field="priority",
            allowed=allowed,
        )
    return Priority(body.priority)


def _webhook(body: CreateJob, user: str, settings: Settings) -> dict[str, Any] | None:
    """Refuse what could never be sent. A name is judged when it is resolved, each time anew."""
    if (webhook := body.webhook) is None:
        return None
    if not settings.webhook_keys_of(user):
        raise InvalidInput(
            f"webhook: there is no secret to sign it with; the operator adds one for {user!r} to "
            "DF_WEBHOOK_SECRETS",
            field="webhook",
        )
    address = literal(urlsplit(webhook.url).hostname or "")
    if address is not None and not is_allowed(address, settings.webhook_private):
        raise InvalidInput(
            f"webhook.url: {address} is a private address, and the operator has not allowed its "
            "network (DF_WEBHOOK_PRIVATE)",
            field="webhook.url",
        )
    return webhook.model_dump(mode="json")


def _generate_step(
    body: CreateJob,
    params: GenerateParams,
    resolved: Resolved,
    pictures: Pictures,
    settings: Settings,
) -> NewStep:
    model = resolved.model
    budget = resolved.budget(model, params.width * params.height)
    _check_limits(params, budget)
    return NewStep(
        id=uuid4(),
        name="generate",
        type="generate",
        params=params.model_dump(mode="json"),
        queue=DEFAULT_QUEUE,
        device=budget.spec.device,
        preset=budget.pinned,
        # Pictures are decoded in the host's memory, which is that of a CPU device.
        vram_bytes=budget.vram_bytes
        + (pictures.bytes if budget.spec.device == "cpu" else 0)
        + lora_bytes(resolved.loras, model, budget),
        timeout_s=_timeout_s(body, budget, settings),
        model_id=model.id,
        checkpoint_sha256=model.checkpoint_sha256,
        loras=[lora.row.id for lora in resolved.loras] or None,
        inputs=pin(body, pictures),
    )


def _generate_params(
    body: CreateJob, resolved: Resolved, pictures: Pictures, settings: Settings
) -> GenerateParams:
    """The request with the model's defaults filled in, checked against the model's schema.

    Raises `InvalidInput`, and `ModelUnavailable` for defaults that no request could have.
    """
    model = resolved.model
    rules: dict[str, Any] = model.parameters_schema.get("properties", {})
    values = {name: getattr(body, name) for name in _BY_MODEL}
    if (sides := pictures.sides(body, model)) is not None:
        values["width"], values["height"] = sides
    defaults = {name: rules.get(name, {}).get("default") for name in values if values[name] is None}
    values |= defaults
    # Not the format: every model's pictures can be of any, whatever release registered it.
    bounded = {name: values[name] for name in _BY_MODEL if name in rules and name != "format"}
    _check_schema(model, bounded | ({"images": body.images} if body.images else {}))
    missing = [name for name in ("width", "height", "steps", "guidance") if values[name] is None]
    if missing:
        raise InvalidInput(
            f"{missing[0]}: model {model.name} has no default for it, so the request must say",
            field=missing[0],
        )
    try:
        _check_defaults(body, defaults)
        values["guidance"] = float(values["guidance"])
        return GenerateParams(
            prompt=body.prompt,
            seed=body.seed,
            strength=_strength(body),
            embed_metadata=body.embed_metadata,
            jpeg_quality=_jpeg_quality(body, settings),
            webp_quality=_webp_quality(body),
            loras=[lora.params for lora in resolved.loras],
            **values,
        )
    except (TypeError, ValueError):  # a default of the model's that its own schema lets pass
        raise unreadable(model) from None


def _check_defaults(body: CreateJob, defaults: dict[str, Any]) -> None:
    """Raise `ValueError` for what no request could say."""
    given = {name: value for name, value in defaults.items() if value is not None}
    CreateJob.model_validate({"type": body.type, "prompt": body.prompt, **given})


def _webp_quality(body: CreateJob) -> int | None:
    if body.webp_quality is not None and body.format != "webp":
        raise InvalidInput(
            f"webp_quality: a {body.format} file has none; send it with the format webp",
            field="webp_quality",
        )
    return body.webp_quality


def _jpeg_quality(body: CreateJob, settings: Settings) -> int:
    if body.jpeg_quality is None:
        return settings.jpeg_quality
    if body.format != "jpg":
        raise InvalidInput(
            f"jpeg_quality: a {body.format} file has none; send it with the format jpg",
            field="jpeg_quality",
        )
    return body.jpeg_quality


def _strength(body: CreateJob) -> float | None:
    if body.image is None:
        return None
    return DEFAULT_STRENGTH if body.strength is None else float(body.strength)


def _check_schema(model: Model, values: dict[str, Any]) -> None:
    problems = find_problems(model.parameters_schema, values)
    if not problems:
        return
    first = problems[0]
    raise InvalidInput(
        f"{first.field}: {first.message} (model {model.label})",
        errors=[
            {"field": problem.field, "message": problem.message, problem.rule: problem.limit}
            for problem in problems
        ],
        model_id=str(model.id),
    )


def _check_limits(params: GenerateParams, budget: StepBudget) -> None:
    pixels, name = params.width * params.height, budget.spec.name
    if pixels > budget.max_pixels:
        raise InvalidInput(
            f"width, height: {pixels} pixels are more than preset {name!r} allows, "
            f"{budget.max_pixels}",
            field="width",
            maximum_pixels=budget.max_pixels,
        )
    if params.steps > budget.max_steps:
        raise InvalidInput(
            f"steps: {params.steps} are more than preset {name!r} allows, {budget.max_steps}",
            field="steps",
            maximum=budget.max_steps,
        )


def _timeout_s(body: CreateJob, budget: StepBudget, settings: Settings) -> float:
    if body.timeout_s is None:
        return min(budget.timeout_s, settings.max_timeout_s)
    if body.timeout_s > settings.max_timeout_s:
        raise InvalidInput(
            f"timeout_s: at most {settings.max_timeout_s:g} here",
            field="timeout_s",
            maximum=settings.max_timeout_s,
        )
    return body.timeout_s
