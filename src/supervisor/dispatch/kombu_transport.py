"""kombu's Redis transport, with a check before it delivers a message.

Celery has no hook for a list element that is no envelope, nor for one that kombu can make no
message of: kombu does both inside its poll, and an exception there ends the worker. So a message is
made here once for the check alone: whatever is wrong with it shows as an exception.
"""

from queue import Empty
from typing import Any, Protocol

from kombu.transport import redis
from redis.exceptions import ResponseError


class DeadLetterHandler(Protocol):
    """Keeps what cannot be read. `reason` is a text or the error."""

    def __call__(self, *, queue: str, reason: object, body: object) -> None: ...


class CheckedChannel(redis.Channel):  # type: ignore[misc]
    """kombu's, for which a list element that is no JSON is a dead letter."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (Empty, *self.connection_errors):
            raise
        except Exception as error:  # no JSON, or JSON that is too deep
            # Most errors carry what was popped: text, or bytes that are no UTF-8.
            body = getattr(error, "doc", getattr(error, "object", ""))
            dead_letter: DeadLetterHandler = self.connection.client.transport_options["dead_letter"]
            dead_letter(queue="", reason=error, body=body)
            return True


class CheckedTransport(redis.Transport):  # type: ignore[misc]
    """kombu's, for which a list element that is no envelope is a dead letter.

    A broker that refuses (its disk is full, its memory, it has become a replica) counts as one that
    is away. kombu counts that as an error of a channel, which ends Celery's worker.
    """

    Channel = CheckedChannel
    connection_errors = (*redis.Transport.connection_errors, ResponseError)

    def _deliver(self, message: Any, queue: str) -> None:
        problem = envelope_problem(message) or self._message_problem(message)
        if problem is None:
            super()._deliver(message, queue)
        else:
            dead_letter: DeadLetterHandler = self.client.transport_options["dead_letter"]
            dead_letter(queue=queue, reason=problem, body=message)

    def _message_problem(self, raw: Any) -> Exception | None:
        """What kombu raises when it makes a message of it; None when it makes one."""
        try:
            self.channels[0].Message(raw, channel=self.channels[0])
        except Exception as error:
            return error
        return None


def envelope_problem(message: Any) -> str | None:
    """Why nobody can send such a message through kombu; None when one could."""
    if not isinstance(message, dict):
        return "no envelope"
    properties = message.get("properties")
    if not isinstance(properties, dict):
        return "an envelope without properties"
    if not _is_text(properties.get("delivery_tag")):
        return "an envelope without a delivery tag"
    info = properties.get("delivery_info")
    if not isinstance(info, dict) or not {"exchange", "routing_key"} <= info.keys():
        return "an envelope without delivery info"
    headers = message.get("headers")
    if not isinstance(headers, dict):
        return "an envelope without headers"
    if headers.get("compression"):  # kombu would unpack it at once, however large that is
        return "a compressed message, which we never send"
    return None


def _is_text(value: Any) -> bool:
    """Whether it is text that Redis can keep: without halves of surrogate pairs."""
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)
