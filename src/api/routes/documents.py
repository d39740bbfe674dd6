"""How the operations that answer no JSON are documented: their media types, with examples."""

from __future__ import annotations

from typing import Any

_JOB = "5f0c6f3a-6a1c-4a55-9a43-3f3f9a1a7b10"
_STEP = "b1c5e1b0-3a53-4a53-8f0f-0d7f3f1d7c11"
_COMMON = (
    '"ts":"2026-01-31T12:00:00.000000Z","level":"INFO","code":"{code}","message":"{message}",'
    f'"job_id":"{_JOB}","step_id":"{_STEP}"'
)


def _message(seq: int, event: str, code: str, message: str, payload: str) -> str:
    common = _COMMON.replace("{code}", code).replace("{message}", message)
    data = f'{{"seq":{seq},{common},"item_index":null,"payload":{payload}}}'
    return f"event: {event}\ndata: {data}\nid: {seq}\n\n"


_STREAM = "".join(
    (
        "retry: 1000\n\n",
        _message(7, "progress", "progress", "sampling", '{"progress":0.42,"stage":"sampling"}'),
        _message(8, "artifact", "artifact.written", "item 0 stored", '{"seed":42}'),
        ": still here\n\n",
        _message(9, "log", "job.finish", "job succeeded: completed", '{"status":"succeeded"}'),
        _message(10, "progress", "progress", "progress at the end", '{"progress":1.0}'),
    )
)
_LINE = "{" + _COMMON.replace("{code}", "step.start").replace("{message}", "step starts") + "}\n"

# OpenAPI 3.1 has no word for a sequence of events; tools take the schema for that of each.
_EVENT = {
    "type": "object",
    "description": "one event of the stream",
    "properties": {
        "event": {"enum": ["progress", "log", "artifact", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
    "required": ["event", "data", "id"],
}

SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`progress`, `log`, `artifact` and `error` events. `id` is the event's "
        "number in its job: from 1, without gaps. A comment every 15 s keeps the line open. The "
        "verdict comes as [`error`], `log` (`job.finish`), `progress`; then the stream closes.",
        "content": {"text/event-stream": {"schema": _EVENT, "example": _STREAM}},
    },
    204: {"description": "The job has ended and everything was seen: do not come back."},
}
NDJSON: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One event a line.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}, "example": _LINE}},
    }
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
