"""Says at once that jobs have new events, so that an open stream need not wait for its reader.

The process that commits events publishes the ids of their jobs on a channel of the broker. Each api
process subscribes once, whatever the number of its streams, and reads those jobs from PostgreSQL.
Events themselves are never on the channel, and it promises nothing: readers look four times a
second anyway, so a message that is lost costs that pause, and one that comes twice costs an empty
read.

The client is redis-py's for asyncio. Celery has no channels, and each of its messages goes to one
consumer only. It is imported where a process opens it: where OpenTelemetry is installed, redis-py
loads its SDK, and a program that only looks at the application would wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import anyio

from shared.errors import InfraUnavailable
from shared.retry import backoff_s

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

CHANNEL = "dreamforge.events"
# The longest that one message, or a connection, may take.
TIMEOUT_S = 1.0
# A subscription that hears nothing asks whether the broker is there this often.
HEALTH_CHECK_S = 10.0
# The pauses while the broker is away. What happens meanwhile is not made up for.
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 5.0
# More jobs than this in one message would be a storm, and readers look anyway.
MAX_JOBS = 1000


class EventPublisher:
    """Publishes from one event loop; start `run` in a task group of it."""

    def __init__(self, redis_url: str) -> None:
        self._redis = open_client(redis_url)
        self._changed: set[UUID] = set()
        self._wakeup = anyio.Event()

    def publish(self, job_ids: Collection[UUID]) -> None:
        """These jobs have new events. Never waits, never raises."""
        if len(self._changed) < MAX_JOBS:
            self._changed.update(job_ids)
            self._wakeup.set()

    async def run(self) -> None:
        """Send until cancelled: what changed while one message was sent goes into the next one."""
        failures = 0
        while True:
            await self._wakeup.wait()
            self._wakeup = anyio.Event()
            changed, self._changed = self._changed, set()
            if not changed:  # forgotten while the broker was away
                continue
            try:
                with translated_errors(), anyio.fail_after(TIMEOUT_S):
                    await self._redis.publish(CHANNEL, " ".join(map(str, changed)))
                failures = 0
            except Exception as error:  # a bug too: it must not end the other tasks of the process
                failures += 1
                await pause("streams see events later", failures, error)
                self._changed.clear()  # readers have looked by now

    async def close(self) -> None:
        await self._redis.aclose()


class EventSubscription:
    """Hears what publishers say; start `run` in a task group. `on_change` gets the jobs' ids."""

    def __init__(self, redis_url: str, on_change: Callable[[Collection[UUID]], None]) -> None:
        self._redis = open_client(redis_url)
        self._on_change = on_change
        self._failures = 0

    async def run(self) -> None:
        """Listen until cancelled, again and again where the broker goes away."""
        while True:
            try:
                with translated_errors():
                    await self._listen()
            except Exception as error:  # a bug too: it must not end the other tasks of the process
                self._failures += 1
                await pause("streams hear of events later", self._failures, error)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _listen(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            self._failures = 0
            while True:
                message = await channel.get_message(timeout=HEALTH_CHECK_S)
                if message is not None:
                    self._on_change(_job_ids(message["data"]))


def _job_ids(data: bytes) -> list[UUID]:
    try:
        return [UUID(each) for each in data.decode().split()]
    except ValueError:  # another program's; it names no job of ours
        log.warning("broker: a message on %s that names no jobs", CHANNEL)
        return []


@contextmanager
def translated_errors() -> Iterator[None]:
    """What the client raises becomes `InfraUnavailable`."""
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise InfraUnavailable(f"the broker: {type(error).__name__}") from error


async def pause(consequence: str, failures: int, error: Exception) -> None:
    """Wait before another try; the log has one line for as long as the broker is away."""
    if not isinstance(error, InfraUnavailable):
        log.error("%s", consequence, exc_info=error)
    elif failures == 1:
        log.warning("%s; %s", error.message, consequence)
    await anyio.sleep(backoff_s(failures, first_s=FIRST_PAUSE_S, most_s=MOST_PAUSE_S, jitter=0.5))


def open_client(redis_url: str) -> Redis:
    """A client for channels: it gives up soon, and tries nothing again by itself."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(
        redis_url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        health_check_interval=HEALTH_CHECK_S,
        retry=Retry(NoBackoff(), 0),  # the loops here are the retries
    )
