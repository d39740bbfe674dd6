"""The documented answers of operations: media types, examples, headers, links."""

from typing import Any

from fastapi.encoders import jsonable_encoder

from api.openapi import examples
from api.streaming.encoding import log_line, sse_message
from api.streaming.sse import HEARTBEAT, OPENING
from api.waiting.feed import NAME, queue_message

Responses = dict[int | str, dict[str, Any]]


def answers(description: str, example: Any, *, status: int = 200, **more: Any) -> Responses:
    """The `responses` of an operation that answers JSON, with one example or several by name.

    `more` is what else OpenAPI documents of an answer: `headers`, `links`.
    """
    encoded = jsonable_encoder(example)
    media = {"example": encoded}
    if isinstance(example, dict):
        media = {"examples": {name: {"value": value} for name, value in encoded.items()}}
    return {status: {"description": description, "content": {"application/json": media}, **more}}


# Links: where an answer leads ---------------------------------------------------------------------

_OF_A_JOB = (
    "get_job",
    "cancel_job",
    "delete_job",
    "get_progress",
    "stream_progress",
    "get_logs",
    "list_artifacts",
)


def job_links(place: str) -> dict[str, Any]:
    """From an answer that has a job's id at this JSON pointer to what can be asked about it."""
    return {
        name: {"operationId": name, "parameters": {"job_id": f"$response.body#{place}"}}
        for name in _OF_A_JOB
    }


def input_links() -> dict[str, Any]:
    """From an answer that has an input to what can be asked about it."""
    return {
        name: {"operationId": name, "parameters": {"input_id": "$response.body#/input/id"}}
        for name in ("get_input", "delete_input")
    }


def create_link(place: str) -> dict[str, Any]:
    """From an answer that has a model's id at this JSON pointer to a job with it."""
    body = {
        "type": "generate",
        "prompt": "a red apple",
        "model_id": f"{{$response.body#{place}}}",
    }
    return {"create_job": {"operationId": "create_job", "requestBody": body}}


# Answers that are no JSON -------------------------------------------------------------------------

# What a client gets that has seen event 7.
_STREAM = b"".join(
    (
        OPENING,
        queue_message(examples.JOB, examples.QUEUE, examples.NOON),
        *map(sse_message, examples.EVENTS[:3]),
        HEARTBEAT,
        *map(sse_message, examples.EVENTS[3:]),
    )
).decode()
_LOG = b"".join(map(log_line, examples.EVENTS)).decode()

# OpenAPI 3.1 cannot describe a sequence of events; tools read the schema as that of each event.
_MESSAGE = {
    "type": "object",
    "description": "one event of the stream",
    "properties": {
        "event": {"enum": ["progress", "log", "artifact", "error", NAME]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/Event"},
                    {"$ref": "#/components/schemas/QueueMessage"},
                ]
            },
        },
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
    "required": ["event", "data"],
}
_LINES = {
    "type": "string",
    "description": "each line is one object",
    "contentMediaType": "application/x-ndjson",
    "contentSchema": {"$ref": "#/components/schemas/LogLine"},
}

SSE: Responses = {
    200: {
        "description": "`progress`, `log`, `artifact` and `error` events. `id` is the event's "
        "number in its job: from 1, without gaps. While the job waits, `queue` says where, without "
        "an `id` and a `seq`; while it is sampled, `preview` shows a small picture, as "
        "`{job_id, item_index, step, steps, width, height, image}`, without them too. A comment "
        "every 15 s keeps the line open. The "
        "verdict comes as [`error`], `log` (`job.finish`), `progress`; then the stream closes. A "
        "browser's EventSource gets 200 in place of 429 and 503 too: a stream that says when to "
        "come again, and ends.",
        "content": {"text/event-stream": {"schema": _MESSAGE, "example": _STREAM}},
    },
    204: {"description": "The job has ended and everything was seen: do not come back."},
}
DELETED: Responses = {204: {"description": "No job of yours has this id any more."}}
NDJSON: Responses = {
    200: {
        "description": "One event a line, oldest first.",
        "content": {"application/x-ndjson": {"schema": _LINES, "example": _LOG}},
    }
}
METRICS: Responses = {
    200: {
        "description": "Prometheus text format.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": examples.METRICS}},
    }
}
