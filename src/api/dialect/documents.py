"""What the OpenAPI document says about answers of the dialect, with examples."""

from typing import Any

from fastapi.sse import format_sse_event

from api.dialect.answers import COMPLETED, CompletedEvent, ImagesOut, PictureOut, PictureUsage
from api.dialect.call import HEARTBEAT
from api.dialect.pictures import deleted
from api.errors import OPENAI_PATH
from api.openapi import examples
from api.openapi.errors import CREATE, TOO_MANY_STREAMS, documented
from api.openapi.responses import Responses, answers

_BASE64 = "iVBORw0KGgo…"
_ABOUT: dict[str, Any] = {
    "output_format": "png",
    "quality": "medium",
    "size": "512x512",
    "usage": PictureUsage(pictures=1, run_seconds=8.412),
}
_CREATED = int(examples.NOON.timestamp())
_ANSWERS = {
    "b64_json": ImagesOut(
        created=_CREATED, data=[PictureOut(b64_json=_BASE64, seed=examples.SEED)], **_ABOUT
    ),
    "url": ImagesOut(
        created=_CREATED,
        data=[PictureOut(url="http://127.0.0.1:8100/dreamforge/…", seed=examples.SEED)],
        **_ABOUT,
    ),
}
_EVENT = CompletedEvent(b64_json=_BASE64, created_at=_CREATED, seed=examples.SEED, **_ABOUT)
_STREAM = HEARTBEAT + format_sse_event(data_str=_EVENT.model_dump_json(), event=COMPLETED)
_MESSAGE = {
    "type": "object",
    "description": "one event of the stream",
    "properties": {
        "event": {"enum": [COMPLETED, "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_HEADERS = {
    "X-Job-Id": {
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
        "description": "the job behind the call, at `/v1/jobs/{job_id}`; errors have it too, once "
        "there is a job",
    },
    "Idempotent-Replayed": {
        "schema": {"const": "true"},
        "description": "this key has made the job before; no other one was made",
    },
}


def _generated() -> Responses:
    described = answers(
        "The pictures. With `stream` events: a `image_generation.completed` for each picture, or "
        "an `error`; a comment every 15 s keeps the line open.",
        _ANSWERS,
        headers=_HEADERS,
    )
    described[200]["model"] = ImagesOut
    described[200]["content"]["text/event-stream"] = {
        "schema": _MESSAGE,
        "example": _STREAM.decode(),
    }
    errors = documented(*CREATE, TOO_MANY_STREAMS, deleted(), path=OPENAI_PATH)
    return described | errors


GENERATED = _generated()
