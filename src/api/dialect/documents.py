"""What the OpenAPI document says about answers of the dialect, with examples."""

from typing import Any

from fastapi.sse import format_sse_event

from api.dialect.answers import Completed, CompletedEvent, ImagesOut, PictureOut, PictureUsage
from api.dialect.call import HEARTBEAT
from api.dialect.partials import partial_of
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


_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
# Each field of `GenerateImages` may be a text of the form as well.
_EDIT_FORM = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "minLength": 1},
        "image": {**_FILE, "description": "the picture to start from: a PNG, JPEG or WebP"},
        "image[]": {
            "type": "array",
            "items": _FILE,
            "description": "in place of `image`: one picture, or several for an edit model",
        },
        "mask": {
            **_FILE,
            "description": "of the size of the picture: where it is transparent, it is painted "
            "anew",
        },
    },
    "required": ["prompt", "image"],
}
_ID = {"type": "string", "format": "uuid", "description": "of an input or artifact"}
_EDIT_JSON = {
    "type": "object",
    "description": "`image` and `mask` are ids; every other field is that of a generation",
    "properties": {"prompt": {"type": "string", "minLength": 1}, "image": _ID, "mask": _ID},
    "required": ["prompt", "image"],
    "examples": [{"prompt": "a green apple", "image": str(examples.INPUT_ID), "strength": 0.6}],
}
EDITS = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _EDIT_FORM},
        "application/json": {"schema": _EDIT_JSON},
    },
}


def answered(completed: Completed) -> Responses:
    """The `responses` of a route whose events with a picture have this name."""
    event = CompletedEvent(
        type=completed, b64_json=_BASE64, created_at=_CREATED, seed=examples.SEED, **_ABOUT
    )
    stream = HEARTBEAT + format_sse_event(data_str=event.model_dump_json(), event=completed)
    described = answers(
        f"The pictures. With `stream` events: a few `{partial_of(completed)}` and a `{completed}` "
        "for each picture, or an `error`; a comment every 15 s keeps the line open.",
        _ANSWERS,
        headers=_HEADERS,
    )
    described[200]["model"] = ImagesOut
    described[200]["content"]["text/event-stream"] = {
        "schema": {
            "type": "object",
            "description": "one event of the stream",
            "properties": {
                "event": {"enum": [partial_of(completed), completed, "error"]},
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
            "required": ["event", "data"],
        },
        "example": stream.decode(),
    }
    errors = documented(*CREATE, TOO_MANY_STREAMS, deleted(), path=OPENAI_PATH)
    return described | errors
