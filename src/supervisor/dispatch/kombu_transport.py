"""kombu's Redis transport, with a check before it delivers a message.

Celery has no hook for a list element that is no envelope: kombu parses inside its poll, and an
exception there ends the worker.
"""

import base64
from typing import Any, Protocol

from kombu.transport import redis


class DeadLetterHandler(Protocol):
    """Keeps what cannot be read. `reason` is a text or the error."""

    def __call__(self, *, queue: str, reason: object, body: object) -> None: ...


class CheckedChannel(redis.Channel):  # type: ignore[misc]
    """kombu's, for which a list element that is no JSON is a dead letter."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ValueError as error:
            # The error carries what was popped: text, or bytes that are no UTF-8.
            body = getattr(error, "doc", getattr(error, "object", ""))
            dead_letter: DeadLetterHandler = self.connection.client.transport_options["dead_letter"]
            dead_letter(queue="", reason=error, body=body)
            return True


class CheckedTransport(redis.Transport):  # type: ignore[misc]
    """kombu's, for which a list element that is no envelope is a dead letter."""

    Channel = CheckedChannel

    def _deliver(self, message: Any, queue: str) -> None:
        problem = envelope_problem(message)
        if problem is None:
            super()._deliver(message, queue)
        else:
            dead_letter: DeadLetterHandler = self.client.transport_options["dead_letter"]
            dead_letter(queue=queue, reason=problem, body=message)


def envelope_problem(message: Any) -> str | None:
    """Why kombu cannot make a message of it; None when it can."""
    if not isinstance(message, dict):
        return "no envelope"
    properties = message.get("properties")
    if not isinstance(properties, dict):
        return "an envelope without properties"
    if not isinstance(properties.get("delivery_tag"), str):
        return "an envelope without a delivery tag"
    info = properties.get("delivery_info")
    if not isinstance(info, dict) or not {"exchange", "routing_key"} <= info.keys():
        return "an envelope without delivery info"
    if properties.get("body_encoding") == "base64":
        try:
            base64.b64decode(message.get("body") or "")
        except (ValueError, TypeError):
            return "a body that is not base64"
    return None
