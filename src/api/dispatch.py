"""Wakes workers through the broker; the only file of the api that imports Celery.

A notification says that a step waits in a queue. It may be lost: workers poll as well, so a loss
costs a second and never a job. Hence `notify` returns at once, whatever the broker does. One task
sends what waits, in a thread, for at most a second. It runs when the request's own task waits for
the first time, which is once its answer is written. When the broker hangs, messages wait up to a
bound, and the rest are dropped and counted. At its end the process sends what still waits.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import anyio
from anyio import CapacityLimiter, to_thread
from celery import Celery

from api.metrics import Metrics
from shared.dispatch.celery_settings import TASK_NAME, celery_queue, publisher_settings
from shared.errors import InfraUnavailable

log = logging.getLogger(__name__)

Message = tuple[UUID, str]  # step and queue

MAX_WAITING = 256
# The longest that one sending may take, of all messages that wait then up to this many. Under load
# that is one change of threads for several creates.
MAX_BATCH = 32
NOTIFY_TIMEOUT_S = 1.0
# One is enough while all is well. The others replace threads that hang in a dead socket: those end
# by their own time-outs soon after we stopped waiting for them.
MAX_THREADS = 4


class Notifier:
    """Sends notifications; start `run` in a task group of the process."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        self._celery = Celery("dreamforge", set_as_current=False)
        self._celery.conf.update(publisher_settings(redis_url, NOTIFY_TIMEOUT_S))
        self._metrics = metrics
        self._send, self._waiting = anyio.create_memory_object_stream[Message](MAX_WAITING)
        self._sent_all = anyio.Event()

    def notify(self, step_id: UUID, queue: str) -> None:
        """Announce a step that may be claimed. Never waits, never raises."""
        try:
            self._send.send_nowait((step_id, queue))
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._metrics.notifications.labels("dropped").inc()

    async def run(self) -> None:
        """Send until `finish`, or until cancelled."""
        limiter = CapacityLimiter(MAX_THREADS)
        async for first in self._waiting:
            await self._deliver([first, *self._next(MAX_BATCH - 1)], limiter)
        self._sent_all.set()

    async def finish(self) -> None:
        """Take no more, and send what waits, for as long as one sending may take."""
        self._send.close()
        with anyio.move_on_after(NOTIFY_TIMEOUT_S):
            await self._sent_all.wait()

    async def ping(self) -> None:
        """Raises `InfraUnavailable` when the broker does not answer."""
        try:
            with anyio.fail_after(NOTIFY_TIMEOUT_S):
                await to_thread.run_sync(self._connect, abandon_on_cancel=True)
        except Exception as error:  # whatever a transport raises, the broker does not answer
            why = str(error) or type(error).__name__
            raise InfraUnavailable("the broker does not answer", reason=why) from error

    async def close(self) -> None:
        self._send.close()
        self._waiting.close()
        await to_thread.run_sync(self._celery.close)

    def _next(self, most: int) -> Iterator[Message]:
        """What waits already."""
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            for _ in range(most):
                yield self._waiting.receive_nowait()

    async def _deliver(self, messages: list[Message], limiter: CapacityLimiter) -> None:
        sent: list[Message] = []
        try:
            with anyio.fail_after(NOTIFY_TIMEOUT_S):
                await to_thread.run_sync(
                    self._publish, messages, sent, limiter=limiter, abandon_on_cancel=True
                )
        except Exception as error:  # of kombu, redis, a socket or a time-out: all mean "not sent"
            log.warning(
                "broker: not notified, %s; workers will find the steps by polling",
                type(error).__name__,
                extra={"step_ids": [str(step_id) for step_id, _ in messages[len(sent) :]]},
            )
        sent_count = len(sent)  # a thread that we gave up may still add to it
        self._metrics.notifications.labels("sent").inc(sent_count)
        self._metrics.notifications.labels("failed").inc(len(messages) - sent_count)

    def _publish(self, messages: list[Message], sent: list[Message]) -> None:
        """Adds each message to `sent` that the broker has."""
        for step_id, queue in messages:
            options: dict[str, Any] = {"queue": celery_queue(queue), "ignore_result": True}
            self._celery.send_task(TASK_NAME, args=[str(step_id)], retry=False, **options)
            sent.append((step_id, queue))

    def _connect(self) -> None:
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=NOTIFY_TIMEOUT_S)
