"""Calls that wait for their job's end, through the hub: none holds a database connection.

A wait ends when the job has ended, when its time is over, when its client has gone, or when this
process ends. Who waited reads the job then, and answers with it as it is.

Waits may begin and end together, a thousand at a time: when a server comes back, or this process
ends. So their reads take turns (`read`). They would else use up the connections, and the last ones,
and all other requests, would be refused. A read and its turn are bounded too: while PostgreSQL does
not answer, the last of a thousand calls would have its turn after an hour.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.requests import Request

from api.metrics import Metrics
from api.streaming.hub import Hub
from shared.db.jobs import Job
from shared.errors import InfraUnavailable

T = TypeVar("T")

# Of the ten connections of a process. More would make no read faster: one core does the work.
READS_AT_ONCE = 4
# The longest that a read may take, its turn included: a thousand of them take a few seconds.
READ_S = 10.0


class Waits:
    """The waiting calls of this process."""

    def __init__(self, hub: Hub, metrics: Metrics) -> None:
        self._hub = hub
        self._metrics = metrics
        self._turn = anyio.Semaphore(READS_AT_ONCE)

    async def read(self, work: Callable[[], Awaitable[T]], *, timeout_s: float = READ_S) -> T:
        """The value of `work`, which reads the database, in its turn. Raises `InfraUnavailable`."""
        try:
            with anyio.fail_after(timeout_s):
                async with self._turn:
                    return await work()
        except TimeoutError as error:
            raise InfraUnavailable("PostgreSQL did not answer in time") from error

    async def until_end(
        self,
        request: Request,
        read_job: Callable[[], Awaitable[Job]],
        *,
        timeout_s: float | None,
        wakeup: anyio.Event | None = None,
    ) -> bool:
        """Wait until the job has ended or is gone, `timeout_s` at most; None is no limit.

        `wakeup` ends the wait too. Returns whether the client is still there. The body of `request`
        has been read, and the caller holds a place among the streams (`api.limits.Streams`). Raises
        what `read_job` does, and `InfraUnavailable` where the job could not be read within
        `timeout_s`, or `READ_S` if that is more.
        """
        began = anyio.current_time()
        job = await self.read(read_job, timeout_s=max(READ_S, timeout_s or 0.0))
        if job.ended:
            return True
        request.state.waited = True  # how long a client waited is no latency
        if timeout_s is not None:
            timeout_s -= anyio.current_time() - began
        with self._metrics.waiting_calls.track_inprogress():
            return await self._wait(request, job, timeout_s, wakeup)

    async def _wait(
        self, request: Request, job: Job, timeout_s: float | None, wakeup: anyio.Event | None
    ) -> bool:
        gone = False

        async def notice_disconnect(scope: anyio.CancelScope) -> None:
            nonlocal gone
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone = True
            scope.cancel()

        async def notice_wakeup(wakeup: anyio.Event, scope: anyio.CancelScope) -> None:
            await wakeup.wait()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            if wakeup is not None:
                tasks.start_soon(notice_wakeup, wakeup, tasks.cancel_scope)
            tasks.start_soon(notice_disconnect, tasks.cancel_scope)
            with anyio.move_on_after(timeout_s):
                await self._hub.wait_for_end(job.id, job.event_seq)
            tasks.cancel_scope.cancel()
        return not gone
