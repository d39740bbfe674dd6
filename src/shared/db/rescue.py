"""Steps without a living owner: an expired lease, no claim in time, a claim without an answer.

Every worker runs these. `SKIP LOCKED` keeps workers from waiting for each other, so no leader is
needed. One step per transaction: a step that cannot be swept must not hold up the others.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import IS_OWNED, IS_QUEUED, NEXT_EPOCH, jobs, read, steps
from shared.db.transitions import end_step, step_cancelled
from shared.states import Reason, StepState
from shared.step_store import CANCELLED_ERROR, AttemptResult, Decide, OrphanedStep, Rescue

# No lease and no pause is so long (`shared.timings`): PostgreSQL's clock was ahead when it was
# written, or a hand has written it. Nobody would renew such a lease of a dead owner, or claim such
# a step, until the clock is there again.
_TOO_LONG = timedelta(minutes=10)


_LATEST = func.now() + _TOO_LONG
# Its owner may live, so the step is not taken at once: who lives renews the lease by then.
_BOUND_LEASES = (
    update(steps)
    .where(IS_OWNED, steps.c.lease_expires_at > _LATEST)
    .values(lease_expires_at=_LATEST)
)
# Who writes `infinity` holds a step back on purpose.
_BOUND_PAUSES = (
    update(steps)
    .where(IS_QUEUED, steps.c.run_at > _LATEST, func.isfinite(steps.c.run_at))
    .values(run_at=func.now())
)


async def expired_lease(connection: AsyncConnection, decide: Decide) -> Rescue | None:
    """Take one step from an owner whose lease ended; None when there is none."""
    await connection.execute(_BOUND_LEASES)
    row = await _first(connection, IS_OWNED & (steps.c.lease_expires_at < func.now()))
    if row is None:
        return None
    await connection.execute(update(steps).where(steps.c.id == row.id).values(epoch=NEXT_EPOCH))
    return await _end(connection, row, decide)


async def unclaimed(
    connection: AsyncConnection, decide: Decide, *, after_s: float
) -> Rescue | None:
    """End one step that no worker has claimed within `after_s` seconds."""
    await connection.execute(_BOUND_PAUSES)
    limit = func.now() - timedelta(seconds=after_s)
    row = await _first(connection, IS_QUEUED & (steps.c.run_at < limit))
    return None if row is None else await _end(connection, row, decide)


async def release_unacknowledged(
    connection: AsyncConnection, worker_id: UUID, known: Collection[tuple[UUID, int]]
) -> UUID | None:
    """Take one step back that `worker_id` claimed in a transaction whose answer was lost.

    Nothing was started for it, so nothing is charged: it is queued again, or cancelled if that was
    asked for meanwhile. The epoch rises, in case the worker got the answer after all.
    """
    row = await _first(
        connection,
        (steps.c.lease_owner == worker_id)
        & (steps.c.state == StepState.LEASED)
        & tuple_(steps.c.id, steps.c.epoch).not_in(list(known)),
    )
    if row is None:
        return None
    await connection.execute(update(steps).where(steps.c.id == row.id).values(epoch=NEXT_EPOCH))
    await end_step(connection, row, _not_started(row))
    return UUID(str(row.id))


def _not_started(row: Row[Any]) -> AttemptResult:
    if row.cancel_requested_at is None:
        return AttemptResult(
            state=StepState.QUEUED,
            reason=None,
            attempt=row.attempt,
            losses=row.losses,
            vram_wait=row.vram_wait_since is not None,
        )
    finish = step_cancelled(row, "cancelled before it started")
    return AttemptResult(
        state=StepState.CANCELLED,
        reason=Reason.CANCELLED,
        attempt=row.attempt,
        losses=row.losses,
        error=CANCELLED_ERROR,
        events=[finish],
    )


async def _end(connection: AsyncConnection, row: Row[Any], decide: Decide) -> Rescue:
    orphan = read(
        OrphanedStep,
        row,
        state=StepState(row.state),
        cancel_requested=row.cancel_requested_at is not None,
    )
    result = decide(orphan)
    await end_step(connection, row, result)
    return orphan, result


async def _first(connection: AsyncConnection, condition: ColumnElement[bool]) -> Row[Any] | None:
    rows = await connection.execute(
        select(steps, jobs.c.correlation_id, jobs.c.traceparent)
        .join(jobs, jobs.c.id == steps.c.job_id)
        .where(condition)
        .order_by(steps.c.run_at)
        .limit(1)
        .with_for_update(of=(jobs, steps), key_share=True, skip_locked=True)
    )
    return rows.first()
