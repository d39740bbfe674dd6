"""Cancel is a request; the worker that owns a step finalises it.

Steps without an owner end at once. An owned step gets a mark, which its worker sees within a
second: only the owner can prove that the memory is back, so only the owner writes `cancelled`.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import jobs
from shared.db import tables as t
from shared.db.events import append_events
from shared.events import Code, NewEvent
from shared.states import OWNED, Reason, Status, StepState
from shared.step_store import CANCELLED_ERROR

WAITING = frozenset({StepState.PENDING, StepState.QUEUED})


async def request_cancel(
    connection: AsyncConnection, job_id: UUID, *, user: str | None = None
) -> bool | None:
    """Cancel the steps that wait, mark the one that runs; None when there is no such job.

    True when this call ended the job; its owner ends it otherwise, or it had ended before.

    Idempotent: a job that has ended, or was marked before, stays as it is.
    """
    job = await jobs.lock(connection, job_id, user=user)
    if job is None:
        return None
    if job["status"] in jobs.ENDED:
        return False
    await connection.execute(
        update(t.jobs)
        .where(t.jobs.c.id == job_id, t.jobs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=func.clock_timestamp())
    )
    states = await _lock_steps(connection, job_id)
    await end_waiting_steps(connection, job_id)
    if any(state in OWNED for state in states):
        await _mark_owned_steps(connection, job_id)
        return False
    return await jobs.finish_job(
        connection,
        job_id,
        status=Status.CANCELLED,
        reason=Reason.CANCELLED,
        error=CANCELLED_ERROR,
    )


async def end_waiting_steps(
    connection: AsyncConnection, job_id: UUID, *, message: str = "cancelled before it started"
) -> int:
    """Every step without an owner becomes `cancelled`; returns how many. The job's row is locked.

    Also what happens to the rest of a chain when one of its steps ends otherwise than succeeded.
    """
    ended = await connection.execute(
        update(t.steps)
        .where(t.steps.c.job_id == job_id, t.steps.c.state.in_(WAITING))
        .values(
            state=StepState.CANCELLED,
            reason=Reason.CANCELLED,
            error=CANCELLED_ERROR | {"message": message},
            finished_at=func.clock_timestamp(),
            updated_at=func.clock_timestamp(),
        )
        .returning(t.steps.c.id, t.steps.c.name, t.steps.c.position)
    )
    rows = sorted(ended.all(), key=lambda row: row.position)
    if rows:
        await append_events(
            connection,
            job_id,
            [
                NewEvent(
                    code=Code.STEP_FINISH,
                    message=f"step {row.name}: {message}",
                    step_id=row.id,
                    payload={
                        "step": row.name,
                        "state": StepState.CANCELLED,
                        "reason": Reason.CANCELLED,
                    },
                )
                for row in rows
            ],
        )
    return len(rows)


async def _lock_steps(connection: AsyncConnection, job_id: UUID) -> list[StepState]:
    rows = await connection.execute(
        select(t.steps.c.state)
        .where(t.steps.c.job_id == job_id)
        .order_by(t.steps.c.id)
        .with_for_update(key_share=True)
    )
    return [StepState(row.state) for row in rows]


async def _mark_owned_steps(connection: AsyncConnection, job_id: UUID) -> None:
    marked = await connection.execute(
        update(t.steps)
        .where(
            t.steps.c.job_id == job_id,
            t.steps.c.state.in_(OWNED),
            t.steps.c.cancel_requested_at.is_(None),
        )
        .values(cancel_requested_at=func.clock_timestamp(), updated_at=func.clock_timestamp())
        .returning(t.steps.c.id, t.steps.c.name)
    )
    rows = marked.all()
    if rows:
        await append_events(
            connection,
            job_id,
            [
                NewEvent(
                    code=Code.CANCEL_REQUESTED,
                    message=f"step {row.name} is asked to stop",
                    step_id=row.id,
                )
                for row in rows
            ],
        )
