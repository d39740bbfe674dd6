"""kombu's Redis transport, with a check before it delivers a message.

Celery has no hook for a list element that is no envelope: kombu parses inside its poll, and an
exception there ends the worker.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from kombu.transport import redis

from shared.dispatch.dead_letters import DeadMessage, dead_message

DeadLetterHandler = Callable[[DeadMessage], None]


class CheckedChannel(redis.Channel):  # type: ignore[misc]
    """kombu's, for which a list element that is no JSON is a dead letter."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ValueError as error:
            # The error carries what was popped: text, or bytes that are no UTF-8.
            body = getattr(error, "doc", getattr(error, "object", ""))
            self._dead_letter(dead_message(queue="", reason=reason_text(error), body=body))
            return True

    @property
    def _dead_letter(self) -> DeadLetterHandler:
        handler: DeadLetterHandler = self.connection.client.transport_options["dead_letter"]
        return handler


class CheckedTransport(redis.Transport):  # type: ignore[misc]
    """kombu's, for which a list element that is no envelope is a dead letter."""

    Channel = CheckedChannel

    def _deliver(self, message: Any, queue: str) -> None:
        problem = envelope_problem(message)
        if problem is None:
            super()._deliver(message, queue)
        else:
            dead_letter: DeadLetterHandler = self.client.transport_options["dead_letter"]
            dead_letter(dead_message(queue=queue, reason=problem, body=message))


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


def reason_text(reason: object) -> str:
    if isinstance(reason, Exception):
        return f"{type(reason).__name__}: {reason}"[:200]
    return str(reason)[:200]
