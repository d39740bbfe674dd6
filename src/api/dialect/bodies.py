"""The bytes of an answer with pictures, part by part: one JSON object, or a stream of events."""

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi.sse import format_sse_event

from api.dialect.answers import Completed, Pictures
from api.dialect.pictures import Store, base64_ranges
from api.dialect.request import GenerateImages


async def json_body(
    pictures: Pictures, body: GenerateImages, store: Store
) -> AsyncGenerator[bytes]:
    """The object of a call, with its pictures in it.

    The first part has the first bytes of a picture, so whoever waits for it before the answer
    begins knows that the store is there.
    """
    about = {"created": pictures.created}
    about |= pictures.about(body, pictures=len(pictures.artifacts))
    pending = _open(about) + b',"data":['
    for index, picture in enumerate(pictures.artifacts):
        pending += b"," * (index > 0) + _open({"seed": picture.seed}) + b',"b64_json":"'
        async for part in base64_ranges(store, picture):
            yield pending + part
            pending = b""
        pending = b'"}'
    yield pending + b"]}"


def url_body(
    pictures: Pictures, body: GenerateImages, presign: Callable[[str], str]
) -> dict[str, Any]:
    """The object of a call, with addresses of its pictures."""
    about = pictures.about(body, pictures=len(pictures.artifacts))
    data = [{"url": presign(each.s3_key), "seed": each.seed} for each in pictures.artifacts]
    return {"created": pictures.created, **about, "data": data}


async def completed_events(
    pictures: Pictures, body: GenerateImages, store: Store, completed: Completed
) -> AsyncGenerator[bytes]:
    """One event for each picture."""
    about = {"type": completed, "created_at": pictures.created}
    about |= pictures.about(body, pictures=1)
    for picture in pictures.artifacts:
        opening = _open({**about, "seed": picture.seed}) + b',"b64_json":"'
        pending = f"event: {completed}\ndata: ".encode() + opening
        async for part in base64_ranges(store, picture):
            yield pending + part
            pending = b""
        yield pending + b'"}\n\n'


def error_event(error: dict[str, Any]) -> bytes:
    """What their clients raise as an error, in the middle of a stream."""
    return format_sse_event(data_str=json.dumps({"type": "error", "error": error}), event="error")


def _open(fields: dict[str, Any]) -> bytes:
    """A JSON object that is not closed yet."""
    return json.dumps(fields, separators=(",", ":")).removesuffix("}").encode()
