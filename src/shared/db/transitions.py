"""The end of an attempt: the step's row, its events, and what that means for its job."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, literal, select, update
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.cancel import end_waiting_steps
from shared.db.events import append_events
from shared.db.jobs import finish_job
from shared.db.tables import jobs, steps
from shared.states import STATUS_OF, TERMINAL, Reason, Status, StepState
from shared.step_store import CANCELLED_ERROR, AttemptResult


def seconds_from_now(seconds: float) -> Any:
    """A moment by PostgreSQL's clock, the only one that is ever stored."""
    return func.now() + literal(timedelta(seconds=seconds), INTERVAL)


async def end_step(connection: AsyncConnection, row: Row[Any], end: AttemptResult) -> UUID | None:
    """Write an attempt's end to a step whose locks are held, and settle its job.

    Returns the id of the step that became claimable: this one again, or its successor.
    """
    requeued = end.state is StepState.QUEUED
    await connection.execute(
        update(steps)
        .where(steps.c.id == row.id)
        .values(
            state=end.state,
            reason=end.reason,
            # The error of an earlier attempt stays, unless this one has its own.
            error=steps.c.error if requeued and end.error is None else end.error,
            attempt=end.attempt,
            losses=end.losses,
            lease_owner=None,
            lease_expires_at=None,
            run_at=seconds_from_now(end.delay_s) if requeued else steps.c.run_at,
            vram_wait_since=func.coalesce(steps.c.vram_wait_since, func.now())
            if end.vram_wait
            else None,
            finished_at=None if requeued else func.now(),
            updated_at=func.now(),
        )
    )
    await append_events(connection, row.job_id, end.events)
    if requeued:
        # A job whose attempt ended shows as queued again: nothing of it runs.
        await connection.execute(
            update(jobs)
            .where(jobs.c.id == row.job_id, jobs.c.status == Status.RUNNING)
            .values(status=Status.QUEUED, updated_at=func.now())
        )
        return UUID(str(row.id))
    return await settle_job(connection, row.job_id)


async def settle_job(connection: AsyncConnection, job_id: UUID) -> UUID | None:
    """Move a job on after one of its steps ended; return the id of a step that may now be claimed.

    The caller holds the job's row lock. Later steps of a chain run only after every earlier one
    succeeded and no cancel was requested; otherwise they are cancelled. When nothing is left
    to do, the first step that did not succeed decides the job.
    """
    rows = (
        await connection.execute(
            select(steps).where(steps.c.job_id == job_id).order_by(steps.c.position)
        )
    ).all()
    broken = next((r for r in rows if r.state in (StepState.FAILED, StepState.CANCELLED)), None)
    waiting = [r for r in rows if r.state == StepState.PENDING]
    if waiting and (broken is not None or await _cancel_requested(connection, job_id)):
        why = "on request" if broken is None else f"because step {broken.name} {broken.state}"
        await end_waiting_steps(connection, job_id, message=f"cancelled {why}")
        broken = broken or waiting[0]
    elif waiting:
        return await _queue_if_first(connection, rows, waiting[0])
    if any(r.state not in TERMINAL and r not in waiting for r in rows):
        return None
    state, reason, error = StepState.SUCCEEDED, Reason.COMPLETED, None
    if broken is not None and broken.state == StepState.FAILED:
        state, reason, error = StepState.FAILED, Reason(broken.reason), broken.error
    elif broken is not None:
        state, reason, error = StepState.CANCELLED, Reason.CANCELLED, CANCELLED_ERROR
    await finish_job(connection, job_id, status=STATUS_OF[state], reason=reason, error=error)
    return None


async def _cancel_requested(connection: AsyncConnection, job_id: UUID) -> bool:
    moment = await connection.scalar(select(jobs.c.cancel_requested_at).where(jobs.c.id == job_id))
    return moment is not None


async def _queue_if_first(connection: AsyncConnection, rows: Any, step: Row[Any]) -> UUID | None:
    """Queue `step` when every earlier one succeeded."""
    earlier = [row for row in rows if row.position < step.position]
    if any(row.state != StepState.SUCCEEDED for row in earlier):
        return None
    await connection.execute(
        update(steps)
        .where(steps.c.id == step.id)
        .values(state=StepState.QUEUED, run_at=func.now(), updated_at=func.now())
    )
    return UUID(str(step.id))
