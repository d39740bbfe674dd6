"""The caller of a create, from its request."""

from typing import Any

from fastapi import Request

from api.admission.idempotency import fingerprint, key_hash
from api.admission.plan import Caller
from api.middleware import tracing
from shared.db.insert_job import IdempotencyKey
from shared.settings import Settings


def caller_of(
    request: Request, user: str, idempotency_key: str | None, parsed: Any, settings: Settings
) -> Caller:
    """`parsed` is what a repeated request must have in common with the first one.

    Raises `InvalidInput` for a key that is none.
    """
    key = None
    if idempotency_key is not None:
        key = IdempotencyKey(
            key_hash=key_hash(idempotency_key),
            fingerprint=fingerprint(parsed),
            ttl_s=settings.idempotency_ttl_s,
        )
    return Caller(
        user=user,
        correlation_id=request.state.correlation_id,
        client_request_id=request.state.client_request_id,
        traceparent=tracing.traceparent_of(request),
        key=key,
    )
