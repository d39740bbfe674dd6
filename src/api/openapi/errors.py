"""Which errors an operation documents, with an example of each: the error itself."""

from __future__ import annotations

from typing import Any

from api.openapi.examples import JOB
from api.schemas.ids import no_such_job, no_such_model
from api.schemas.responses import Envelope
from shared.errors import (
    Conflict,
    DreamForgeError,
    InfraUnavailable,
    InsufficientVram,
    Internal,
    InvalidInput,
    ModelUnavailable,
    PayloadTooLarge,
    RateLimited,
    Unauthorized,
)

NO_SUCH_JOB = no_such_job()
NO_SUCH_MODEL = no_such_model()
# All that an operation without parameters can find wrong.
_BAD_ID = InvalidInput(
    "X-Client-Request-Id must be 1 to 128 printable ASCII characters without spaces, and there "
    "once",
    field="X-Client-Request-Id",
)
_ALWAYS = (
    InfraUnavailable("PostgreSQL cannot be reached"),
    Internal("something went wrong on our side"),
)
_NO_KEY = Unauthorized("an API key is needed: Authorization: Bearer <key>")

CREATE = (
    InvalidInput(
        "width: Input should be a multiple of 8",
        errors=[{"field": "width", "message": "Input should be a multiple of 8", "multipleOf": 8}],
    ),
    Conflict(
        "this Idempotency-Key was used with another request body; use a new key",
        job_id=str(JOB),
    ),
    PayloadTooLarge("the request body is over 1048576 bytes", maximum=1048576),
    ModelUnavailable("model_id: no such model; GET /v1/models lists what there is"),
    InsufficientVram(
        "step 'generate' needs 12884901888 bytes on a cuda device (preset 'gpu-24gb'); the largest "
        "slot of any live worker that has its model has 8589934592. Choose another preset or "
        "model, or add a worker.",
        step="generate",
        preset="gpu-24gb",
        device="cuda",
        required_bytes=12884901888,
        largest_slot_bytes=8589934592,
        live_workers=1,
        slots=[
            {
                "class": "NVIDIA GeForce RTX 3070",
                "state": "free",
                "total_bytes": 8589934592,
                "free_bytes": 7516192768,
                "holders": {"4711": 1073741824},
            }
        ],
    ),
    RateLimited(
        "60 jobs within a minute, and that is the limit; try again in 12 s",
        retry_after_s=12,
        limit="jobs_per_minute",
        maximum=60,
        used=60,
    ),
)
TOO_MANY_STREAMS = RateLimited(
    "1000 streams are open, and that is the limit; try again in 10 s",
    retry_after_s=10,
    limit="open_streams",
    maximum=1000,
    used=1000,
)


def documented(*errors: DreamForgeError, needs_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that can answer with these, beside those that all can."""
    refusals = errors if any(isinstance(e, InvalidInput) for e in errors) else (_BAD_ID, *errors)
    ours = {each.code for each in errors}
    always = tuple(error for error in _ALWAYS if error.code not in ours)
    found: dict[int | str, dict[str, Any]] = {}
    for error in (*((_NO_KEY,) if needs_key else ()), *refusals, *always):
        entry = found.setdefault(error.http_status, _entry(error))
        entry["description"] = ", ".join(filter(None, (entry["description"], f"`{error.code}`")))
        entry["content"]["application/json"]["examples"][error.code] = {
            "value": Envelope(
                code=error.code,
                message=error.message,
                details=error.details,
                correlation_id="0f3c5a2e9d4b4c1f8e7a6b5c4d3e2f10",
            ).model_dump()
        }
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def _entry(error: DreamForgeError) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "model": Envelope,
        "description": "",
        "content": {"application/json": {"examples": {}}},
    }
    if isinstance(error, Unauthorized):
        entry["headers"] = {
            "WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`"}
        }
    if error.retry_after_s is not None:
        entry["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    return entry
