"""Keeps the lease of one execution, and its local fence.

Renewing and giving up are two tasks: a renewal may hang in the database, and the fence must hold
all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from shared.errors import InfraUnavailable
from shared.linux.clock import boottime
from shared.step_store import Stale
from supervisor.execution.context import DATABASE_RETRY_S, Execution
from supervisor.execution.fence import Fence
from supervisor.lifecycle.step import EventKind

log = logging.getLogger(__name__)

GUARD_EVERY_S = 0.5


class LeaseKeeper:
    """`on_renewed` runs after each success; it pushes the runner's own timer back."""

    def __init__(
        self, execution: Execution, fence: Fence, *, on_renewed: Callable[[], None]
    ) -> None:
        self._execution = execution
        self._fence = fence
        self._on_renewed = on_renewed

    async def renew(self) -> None:
        """Renew until cancelled, or until another worker owns the step.

        The attempts go on past the fence. The runner is gone by then, but what it finished may
        still be published if the database comes back before a rescuer takes the step.
        """
        execution, timings = self._execution, self._execution.worker.timings
        pause_s = timings.lease_renew_s
        while True:
            await anyio.sleep(pause_s)
            pause_s, sent = DATABASE_RETRY_S, boottime()
            try:
                with anyio.fail_after(timings.lease_renew_s):
                    await execution.worker.store.renew(execution.claim, timings.lease_s)
            except Stale:
                execution.post(EventKind.LEASE_GONE)
                return
            except (InfraUnavailable, TimeoutError):
                log.warning("the lease could not be renewed", extra=execution.recorder.fields)
                continue
            pause_s = timings.lease_renew_s
            self._fence.renew(sent)
            self._on_renewed()

    async def guard(self, runner_may_live: Callable[[], bool]) -> None:
        """End the runner before the next owner may start one, whatever a renewal waits for.

        In short sleeps: the fence's clock runs while the machine is suspended, a sleep's does not.
        """
        while self._fence.holds:  # noqa: ASYNC110 - a clock, not an event
            await anyio.sleep(min(self._fence.left_s, GUARD_EVERY_S))
        if runner_may_live():
            self._execution.post(EventKind.LEASE_GONE)
