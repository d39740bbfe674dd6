"""Keeps the lease of one execution, and guards its local fence.

Renewing and giving up are two tasks: a renewal may hang in the database, and the fence must hold
all the same.
"""

import logging
from collections.abc import Callable

import anyio

from shared.errors import InfraUnavailable
from shared.linux.clock import boottime
from shared.step_store import Stale
from supervisor.execution.context import DATABASE_RETRY_S, Execution
from supervisor.lifecycle.step import EventKind

log = logging.getLogger(__name__)

GUARD_EVERY_S = 0.5


async def renew_lease(execution: Execution, *, on_renewed: Callable[[], None]) -> None:
    """Renew until cancelled, or until another worker owns the step.

    The attempts go on past the fence. The runner is gone by then, but what it finished may still be
    published if the database comes back before a rescuer takes the step. `on_renewed` runs after
    each success; it pushes the runner's own timer back.
    """
    timings = execution.worker.timings
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
        execution.fence.renew(sent)
        on_renewed()


async def guard_fence(execution: Execution) -> None:
    """End the runner before the next owner may start one, whatever a renewal waits for.

    In short sleeps: the fence's clock runs while the machine is suspended, a sleep's does not.
    """
    fence = execution.fence
    while fence.holds:  # noqa: ASYNC110 - a clock, not an event
        await anyio.sleep(min(fence.left_s, GUARD_EVERY_S))
    if execution.runner_may_live:
        execution.post(EventKind.LEASE_GONE)
