"""Wakes workers through the broker; the only file of the api that imports Celery.

A notification says that a step waits in a queue. It may be lost: workers poll as well, so a loss
costs a second and never a job. Hence `notify` returns at once, whatever the broker does. One task
sends what waits, each message in a thread, for at most a second. When the broker hangs, messages
wait up to a bound, and the rest are dropped and counted.
"""

import logging
from typing import Any
from uuid import UUID

import anyio
from anyio import CapacityLimiter, to_thread
from celery import Celery

from api.metrics import Metrics
from shared.dispatch.celery_settings import TASK_NAME, celery_queue, publisher_settings
from shared.errors import InfraUnavailable

log = logging.getLogger(__name__)

MAX_WAITING = 256
# The longest that one notification may take.
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
        self._send, self._waiting = anyio.create_memory_object_stream[tuple[UUID, str]](MAX_WAITING)

    def notify(self, step_id: UUID, queue: str) -> None:
        """Announce a step that may be claimed. Never waits, never raises."""
        try:
            self._send.send_nowait((step_id, queue))
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._metrics.notifications.labels("dropped").inc()

    async def run(self) -> None:
        """Send until cancelled."""
        limiter = CapacityLimiter(MAX_THREADS)
        async for step_id, queue in self._waiting:
            await self._deliver(step_id, queue, limiter)

    async def ping(self) -> None:
        """Raises `InfraUnavailable` when the broker does not answer."""
        try:
            with anyio.fail_after(NOTIFY_TIMEOUT_S):
                await to_thread.run_sync(self._connect, abandon_on_cancel=True)
        except Exception as error:  # whatever a transport raises, the broker does not answer
            raise InfraUnavailable(f"the broker: {type(error).__name__}") from error

    async def close(self) -> None:
        self._send.close()
        self._waiting.close()
        await to_thread.run_sync(self._celery.close)

    async def _deliver(self, step_id: UUID, queue: str, limiter: CapacityLimiter) -> None:
        try:
            with anyio.fail_after(NOTIFY_TIMEOUT_S):
                await to_thread.run_sync(
                    self._publish, step_id, queue, limiter=limiter, abandon_on_cancel=True
                )
        except Exception as error:  # of kombu, redis, a socket or a time-out: all mean "not sent"
            self._metrics.notifications.labels("failed").inc()
            log.warning(
                "broker: not notified, %s; workers will find the step by polling",
                type(error).__name__,
                extra={"step_id": str(step_id)},
            )
        else:
            self._metrics.notifications.labels("sent").inc()

    def _publish(self, step_id: UUID, queue: str) -> None:
        options: dict[str, Any] = {"queue": celery_queue(queue), "ignore_result": True}
        self._celery.send_task(TASK_NAME, args=[str(step_id)], retry=False, **options)

    def _connect(self) -> None:
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=NOTIFY_TIMEOUT_S)
