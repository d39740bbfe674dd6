"""Which errors an operation documents, with an example of each."""

from __future__ import annotations

from typing import Any

from api.responses import Envelope
from shared import errors

_EXAMPLES: dict[type[errors.DreamForgeError], tuple[str, dict[str, Any]]] = {
    errors.InvalidInput: (
        "width: Input should be a multiple of 8",
        {
            "errors": [
                {
                    "field": "width",
                    "message": "Input should be a multiple of 8",
                    "multipleOf": 8,
                }
            ]
        },
    ),
    errors.Unauthorized: ("an API key is needed: Authorization: Bearer <key>", {}),
    errors.NotFound: ("there is no such job", {}),
    errors.Conflict: (
        "this Idempotency-Key was used with another request body; use a new key",
        {"job_id": "5f0c6f3a-6a1c-4a55-9a43-3f3f9a1a7b10"},
    ),
    errors.PayloadTooLarge: ("the request body is over 1048576 bytes", {"maximum": 1048576}),
    errors.RateLimited: (
        "60 jobs within a minute, and that is the limit; try again in 12 s",
        {"limit": "jobs_per_minute", "maximum": 60, "used": 60, "retry_after_s": 12},
    ),
    errors.InfraUnavailable: ("PostgreSQL cannot be reached", {}),
    errors.ModelUnavailable: ("model_id: no such model; GET /v1/models lists what there is", {}),
    errors.InsufficientVram: (
        "step 'generate' needs 12884901888 bytes on a cuda device",
        {"required_bytes": 12884901888, "largest_slot_bytes": 8589934592},
    ),
    errors.Internal: ("something went wrong on our side", {}),
}
# Every operation can meet these: a header that we refuse, a part that is away, a bug of ours.
_ALWAYS = (errors.InvalidInput, errors.InfraUnavailable, errors.Internal)


def documented(
    *kinds: type[errors.DreamForgeError], needs_key: bool = True
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that can answer with these, beside those that all can."""
    found: dict[int | str, dict[str, Any]] = {}
    every: tuple[type[errors.DreamForgeError], ...] = (*_ALWAYS, *kinds)
    if needs_key:
        every = (errors.Unauthorized, *every)
    for kind in every:
        message, details = _EXAMPLES[kind]
        entry = found.setdefault(kind.http_status, _entry(kind))
        entry["description"] = ", ".join(filter(None, (entry["description"], f"`{kind.code}`")))
        entry["content"]["application/json"]["examples"][kind.code] = {
            "value": {
                "code": kind.code,
                "message": message,
                "details": details,
                "correlation_id": "0f3c5a2e9d4b4c1f8e7a6b5c4d3e2f10",
            }
        }
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def _entry(kind: type[errors.DreamForgeError]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "model": Envelope,
        "description": "",
        "content": {"application/json": {"examples": {}}},
    }
    if kind is errors.Unauthorized:
        entry["headers"] = {
            "WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`"}
        }
    if kind in (errors.InfraUnavailable, errors.RateLimited):
        entry["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    return entry
