"""The errors that an operation documents, each with the error itself as its example."""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from api.errors import OPENAI_PATH, envelope, internal
from api.limits import limit_reached
from api.middleware.body_limit import too_large
from api.middleware.request import bad_client_request_id
from api.openapi.examples import INPUT_ID, JOB
from api.schemas.ids import no_such_input, no_such_job, no_such_letter, no_such_model
from api.schemas.responses import Envelope, OpenAIErrorOut
from shared.db.delete_job import not_ended
from shared.errors import (
    Conflict,
    DreamForgeError,
    InfraUnavailable,
    InsufficientVram,
    InvalidInput,
    ModelUnavailable,
    Unauthorized,
)
from shared.limits import MAX_BODY_BYTES
from shared.states import Status

NO_SUCH_JOB = no_such_job()
NO_SUCH_INPUT = no_such_input()
NO_SUCH_MODEL = no_such_model()
NO_SUCH_LETTER = no_such_letter()
# The only fault that a request without parameters can have.
_BAD_ID = bad_client_request_id()
_ALWAYS = (InfraUnavailable("PostgreSQL cannot be reached"), internal())
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
    too_large(MAX_BODY_BYTES),
    ModelUnavailable(
        "model_id: no such model; GET /v1/models lists what there is", field="model_id"
    ),
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
    limit_reached("jobs_per_minute", 60, pause_s=12),
)
REPLAY = (
    Conflict(f"job {JOB} is a replay of it and has not ended yet"),
    ModelUnavailable("model my-model@1 is disabled, so no new job may use it"),
    limit_reached("jobs_per_minute", 60, pause_s=12),
)
LIVES = not_ended(JOB, Status.RUNNING)
TOO_MANY_STREAMS = limit_reached("open_streams", 1000)
UPLOAD = (
    InvalidInput(
        "file: it is no PNG, JPEG or WebP; accepted are these three",
        field="file",
    ),
    too_large(50_000_000),
    TOO_MANY_STREAMS,
)
INPUT_IN_USE = Conflict(
    "a job that has not ended starts from this picture; wait for it, or cancel it",
    input_id=str(INPUT_ID),
)


def documented(
    *errors: DreamForgeError, needs_key: bool = True, path: str = ""
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that can answer with these, and with those that all can.

    `path` is the operation's, where errors have another shape than usual.
    """
    codes = {error.code for error in errors}
    common = [error for error in (_BAD_ID, *_ALWAYS) if error.code not in codes]
    keyed = [_NO_KEY] if needs_key else []
    by_status = sorted((*keyed, *errors, *common), key=_status_of)
    return {
        status: _response(list(same), path) for status, same in groupby(by_status, key=_status_of)
    }


def _status_of(error: DreamForgeError) -> int:
    return error.http_status


def _response(errors: Sequence[DreamForgeError], path: str) -> dict[str, Any]:
    """What is documented of one status, with an example for each error that has it."""
    examples = {error.code: {"value": _example(error, path)} for error in errors}
    response: dict[str, Any] = {
        "model": OpenAIErrorOut if path.startswith(OPENAI_PATH) else Envelope,
        "description": ", ".join(f"`{error.code}`" for error in errors),
        "content": {"application/json": {"examples": examples}},
    }
    if isinstance(errors[0], Unauthorized):
        response["headers"] = {
            "WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`"}
        }
    if errors[0].retry_after_s is not None:
        response["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    return response


def _example(error: DreamForgeError, path: str) -> Any:
    answer = envelope(error, correlation_id="0f3c5a2e9d4b4c1f8e7a6b5c4d3e2f10", path=path)
    return json.loads(bytes(answer.body))
