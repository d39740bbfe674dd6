"""Notifications that a worker could not read, kept on a list of the broker.

No job depends on them: workers find jobs by polling as well. An operator reads the list to see what
else writes to our queues. So the list is bounded, an entry is lost when the broker is away, and
nothing of it is ever executed.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast
from uuid import uuid4

from shared.errors import InfraUnavailable

KEY = "dreamforge.dlq"
# The newest of them; a flood must not fill the broker's memory.
MOST = 1000
BODY_CHARACTERS = 4096
TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadMessage:
    """`body` is what was received, as text, cut at `BODY_CHARACTERS`."""

    id: str
    received_at: str
    queue: str
    reason: str
    body: str


def dead_message(*, queue: str, reason: str, body: object) -> DeadMessage:
    if isinstance(body, bytes | bytearray):
        body = bytes(body).decode("utf-8", "replace")
    return DeadMessage(
        id=str(uuid4()),
        received_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        queue=_bounded(queue),
        reason=_bounded(reason),
        body=_bounded(body if isinstance(body, str) else repr(body)),
    )


def _bounded(text: str) -> str:
    """As long as is shown at most; half a pair of surrogates, which no answer carries, escaped."""
    return text[:BODY_CHARACTERS].encode("utf-8", "backslashreplace").decode()


class DeadMessages:
    """The list. Every method raises `InfraUnavailable` when the broker does not answer."""

    def __init__(self, redis_url: str) -> None:
        # Not at the top: redis looks for a telemetry library, with all that this one brings.
        from redis import Redis

        self._redis = Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )

    def close(self) -> None:
        self._redis.close()

    def add(self, message: DeadMessage) -> None:
        with _translate_errors(), self._redis.pipeline(transaction=True) as both:
            both.lpush(KEY, json.dumps(asdict(message)))
            both.ltrim(KEY, 0, MOST - 1)
            both.execute()

    def all(self) -> list[DeadMessage]:
        """The newest first."""
        return [message for _, message in self._entries()]

    def drop(self, message_id: str) -> bool:
        """Forget one; False when it is not there."""
        for raw, message in self._entries():
            if message.id == message_id:
                with _translate_errors():
                    return self._redis.lrem(KEY, 1, cast("str", raw)) > 0
        return False

    def _entries(self) -> list[tuple[bytes, DeadMessage]]:
        with _translate_errors():
            raws = cast("list[bytes]", self._redis.lrange(KEY, 0, MOST - 1))
        return [(raw, _read(raw)) for raw in raws]


def _read(raw: bytes) -> DeadMessage:
    """An entry of the list. What another program wrote gets an id made from its bytes."""
    fields = ("id", "received_at", "queue", "reason", "body")
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        entry = None
    if isinstance(entry, Mapping) and all(isinstance(entry.get(name), str) for name in fields):
        return DeadMessage(**{name: _bounded(cast("Any", entry)[name]) for name in fields})
    return DeadMessage(
        id=sha256(raw).hexdigest()[:32],
        received_at="",
        queue="",
        reason="not written by us",
        body=raw.decode("utf-8", "replace")[:BODY_CHARACTERS],
    )


@contextmanager
def _translate_errors() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise InfraUnavailable("the broker does not answer", reason=str(error)) from error
