"""Wakes workers through the broker; the only file of the api that imports Celery.

A notification says that a step waits in a queue. It may be lost: workers poll as well, so a loss
costs a second and never a job. Hence `notify` returns at once, whatever the broker does. One thread
sends what waits; a change of threads for each message would cost more than the message. When the
broker hangs, messages wait up to a bound, and the rest are dropped and counted; what waits when a
sending fails is not tried. At its end the process sends what still waits.
"""

import logging
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from uuid import UUID

import anyio
from anyio import to_thread
from celery import Celery

from api.metrics import Metrics
from shared.dispatch.celery_settings import TASK_NAME, celery_queue, publisher_settings
from shared.errors import InfraUnavailable

log = logging.getLogger(__name__)

Message = tuple[UUID, str]  # step and queue

MAX_WAITING = 256
# The longest wait on a socket, and for the last messages of a process.
NOTIFY_TIMEOUT_S = 1.0


class Notifier:
    """Sends notifications from `start` to `finish`."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        self._celery = Celery("dreamforge", set_as_current=False)
        self._celery.conf.update(publisher_settings(redis_url, NOTIFY_TIMEOUT_S))
        self._metrics = metrics
        self._waiting: SimpleQueue[Message | None] = SimpleQueue()
        # A daemon: a process that ends does not wait for a dead socket.
        self._thread = threading.Thread(target=self._send_all, name="notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self, step_id: UUID, queue: str) -> None:
        """Announce a step that may be claimed. Never waits, never raises."""
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put((step_id, queue))
        else:
            self._metrics.notifications.labels("dropped").inc()

    async def finish(self) -> None:
        """Send what waits, for as long as one sending may take. No `notify` follows."""
        self._waiting.put(None)
        await to_thread.run_sync(self._thread.join, NOTIFY_TIMEOUT_S, abandon_on_cancel=True)

    async def ping(self) -> None:
        """Raises `InfraUnavailable` when the broker does not answer."""
        try:
            with anyio.fail_after(NOTIFY_TIMEOUT_S):
                await to_thread.run_sync(self._connect, abandon_on_cancel=True)
        except Exception as error:  # whatever a transport raises, the broker does not answer
            why = str(error) or type(error).__name__
            raise InfraUnavailable("the broker does not answer", reason=why) from error

    async def close(self) -> None:
        self._waiting.put(None)
        await to_thread.run_sync(self._celery.close)

    def _send_all(self) -> None:
        """Send until None comes."""
        while (message := self._waiting.get()) is not None:
            try:
                self._publish(*message)
            except Exception as error:  # of kombu, redis, or a socket: all mean "not sent"
                lost, is_last = self._take_waiting()
                self._count_lost([message, *lost], error)
                if is_last:
                    return
            else:
                self._metrics.notifications.labels("sent").inc()

    def _take_waiting(self) -> tuple[list[Message], bool]:
        """What waits at this moment, and whether that is all there will be."""
        taken: list[Message] = []
        with suppress(Empty):
            while (message := self._waiting.get_nowait()) is not None:
                taken.append(message)
            return taken, True
        return taken, False

    def _count_lost(self, messages: list[Message], error: Exception) -> None:
        log.warning(
            "broker: not notified, %s; workers will find the steps by polling",
            type(error).__name__,
            extra={"step_ids": [str(step_id) for step_id, _ in messages]},
        )
        self._metrics.notifications.labels("failed").inc(len(messages))

    def _publish(self, step_id: UUID, queue: str) -> None:
        self._celery.send_task(
            TASK_NAME,
            args=[str(step_id)],
            queue=celery_queue(queue),
            ignore_result=True,
            retry=False,
        )

    def _connect(self) -> None:
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=NOTIFY_TIMEOUT_S)
