"""Events as clients get them: a line of the log, or a message of the stream."""

import json
from typing import Any

from fastapi.sse import format_sse_event

from api.schemas.responses import iso
from shared.db.events import Event
from shared.events import stream_name


def log_line(event: Event) -> bytes:
    """One line of NDJSON; `item_index` and `payload` only where there is one."""
    line = _fields(event)
    for name in ("item_index", "payload"):
        if line[name] is None:
            del line[name]
    return _json(line).encode() + b"\n"


def sse_message(event: Event) -> bytes:
    """One SSE message; its id is the event's `seq`, which a client sends as `Last-Event-ID`."""
    data = _json({"seq": event.seq, **_fields(event)})
    return format_sse_event(data_str=data, event=stream_name(event.code), id=str(event.seq))


def _fields(event: Event) -> dict[str, Any]:
    return {
        "ts": iso(event.ts),
        "level": event.level,
        "code": event.code,
        "message": event.message,
        "job_id": str(event.job_id),
        "step_id": None if event.step_id is None else str(event.step_id),
        "item_index": event.item_index,
        "payload": event.payload,
    }


def _json(data: dict[str, Any]) -> str:
    # ASCII only: U+2028 and lone surrogates in a runner's log line would break some readers.
    return json.dumps(data, separators=(",", ":"))
