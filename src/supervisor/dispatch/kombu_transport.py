"""kombu's Redis transport with a look before delivery.

Celery has no hook for what is no envelope at all: kombu parses inside its poll, and what that
raises ends the worker.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from kombu.transport import redis

from shared.dispatch.dead_letters import DeadMessage, dead_message

DeadLetterHandler = Callable[[DeadMessage], None]


class CheckedChannel(redis.Channel):  # type: ignore[misc]
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ValueError as error:
            # What was popped is no JSON. The error carries it: text, or bytes that are no UTF-8.
            body = getattr(error, "doc", getattr(error, "object", ""))
            self._dead_letter(dead_message(queue="", reason=reason_text(error), body=body))
            return True

    @property
    def _dead_letter(self) -> DeadLetterHandler:
        found: DeadLetterHandler = self.connection.client.transport_options["dead_letter"]
        return found


class CheckedTransport(redis.Transport):  # type: ignore[misc]
    """kombu's, for which an element of a queue's list that is no envelope is a dead message."""

    Channel = CheckedChannel

    def _deliver(self, message: Any, queue: str) -> None:
        wrong = _not_an_envelope(message)
        if wrong is None:
            super()._deliver(message, queue)
        else:
            dead_letter: DeadLetterHandler = self.client.transport_options["dead_letter"]
            dead_letter(dead_message(queue=queue, reason=wrong, body=message))


def _not_an_envelope(message: Any) -> str | None:
    """What kombu would trip over, None when it can make a message of it."""
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


def reason_text(reason: object) -> str:
    if isinstance(reason, Exception):
        return f"{type(reason).__name__}: {reason}"[:200]
    return str(reason)[:200]
