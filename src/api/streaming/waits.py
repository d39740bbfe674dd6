"""Calls that wait for their job's end, through the hub: none holds a database connection.

A wait ends when the job has ended, when its time is over, when its client has gone, or when this
process ends. Who waited reads the job then, and answers with it as it is.

Waits may begin and end together, a thousand at a time: when a server comes back, or this process
ends. So their reads take turns (`turn`). They would else use up the connections, and the last ones,
and all other requests, would be refused.
"""

from collections.abc import Awaitable, Callable

import anyio
from starlette.requests import Request

from api.metrics import Metrics
from api.streaming.hub import Hub
from shared.db.jobs import Job

# Of the ten connections of a process. More would make no read faster: one core does the work.
READS_AT_ONCE = 4


class Waits:
    """The waiting calls of this process."""

    def __init__(self, hub: Hub, metrics: Metrics) -> None:
        self._hub = hub
        self._metrics = metrics
        self.turn = anyio.Semaphore(READS_AT_ONCE)

    async def until_end(
        self,
        request: Request,
        read_job: Callable[[], Awaitable[Job]],
        *,
        timeout_s: float | None,
        wakeup: anyio.Event | None = None,
    ) -> bool:
        """Wait until the job has ended, `timeout_s` at most; None is no limit.

        `wakeup` ends the wait too. Returns whether the client is still there. The body of `request`
        has been read, and the caller holds a place among the streams (`api.limits.Streams`). Raises
        what `read_job` does.
        """
        async with self.turn:
            job = await read_job()
        if job.ended:
            return True
        request.state.waited = True  # how long a client waited is no latency
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
