"""How steps come to an end: an attempt's end, a cancel, and what either means for the job.

A cancel is a request; the worker that owns a step finalises it. Steps without an owner end at
once. An owned step gets a mark, which its worker sees within a second: only the owner can prove
that the memory is back, so only the owner writes `cancelled`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Interval, Row, bindparam, case, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import jobs, run_times, usage
from shared.db import tables as t
from shared.db.events import append_events
from shared.db.shares import charge_share
from shared.db.statement import Statement
from shared.events import Code, NewEvent
from shared.states import ENDED, OWNED, TERMINAL, Reason, Status, StepState
from shared.step_store import CANCELLED_ERROR, AttemptResult


async def end_step(connection: AsyncConnection, row: Any, end: AttemptResult) -> UUID | None:
    """Write an attempt's end to a step whose locks are held, and settle its job.

    Returns the id of the step that became claimable: this one again, or its successor.
    """
    requeued = end.state is StepState.QUEUED
    values = {
        "step_id": row.id,
        "end_state": end.state,
        "end_attempt": min(end.attempt, t.MOST_TRIES),
        "end_losses": min(end.losses, t.MOST_TRIES),
        "end_error": end.error,
    }
    if requeued:
        delay = timedelta(seconds=end.delay_s)
        await _REQUEUE.run(connection, **values, delay=delay, is_vram_wait=end.vram_wait)
    else:
        await _END.run(connection, **values, end_reason=end.reason)
    await append_events(connection, row.job_id, end.events)
    if requeued:
        # A job whose attempt ended shows as queued again: nothing of it runs.
        await connection.execute(
            update(t.jobs)
            .where(t.jobs.c.id == row.job_id, t.jobs.c.status == Status.RUNNING)
            .values(status=Status.QUEUED, updated_at=func.now())
        )
    following = UUID(str(row.id)) if requeued else await settle_job(connection, row.job_id)
    await usage.charge_execution(connection, row, ended=not requeued, delay_s=end.delay_s)
    if row.state in OWNED:
        await charge_share(connection, row)
    if end.state is StepState.SUCCEEDED:
        await run_times.record_success(connection, row.id)
    return following


_STEP_ID = bindparam("step_id", type_=t.steps.c.id.type)
_OF_ANY_END = {
    "state": bindparam("end_state", type_=t.steps.c.state.type),
    "attempt": bindparam("end_attempt", type_=t.steps.c.attempt.type),
    "losses": bindparam("end_losses", type_=t.steps.c.losses.type),
    "lease_owner": None,
    "lease_expires_at": None,
    "updated_at": func.now(),
}
_END = Statement(
    update(t.steps)
    .where(t.steps.c.id == _STEP_ID)
    .values(
        **_OF_ANY_END,
        reason=bindparam("end_reason", type_=t.steps.c.reason.type),
        error=bindparam("end_error", type_=t.steps.c.error.type),
        vram_wait_since=None,
        finished_at=func.now(),
    )
)
_REQUEUE = Statement(
    update(t.steps)
    .where(t.steps.c.id == _STEP_ID)
    .values(
        **_OF_ANY_END,
        reason=None,
        # The error of an earlier attempt stays, unless this one has its own.
        error=func.coalesce(
            bindparam("end_error", type_=JSONB(none_as_null=True)), t.steps.c.error
        ),
        claimed_at=None,
        attempt_started_at=None,
        run_at=func.now() + bindparam("delay", type_=Interval),
        vram_wait_since=case(
            (
                bindparam("is_vram_wait", type_=Boolean),
                func.coalesce(t.steps.c.vram_wait_since, func.now()),
            )
        ),
        finished_at=None,
    )
)
_STEPS_OF_JOB = Statement(
    select(t.steps).where(t.steps.c.job_id == bindparam("job_id")).order_by(t.steps.c.position)
)


async def settle_job(connection: AsyncConnection, job_id: UUID) -> UUID | None:
    """Move a job on after one of its steps ended; return the id of a step that may now be claimed.

    The caller holds the job's row lock. Later steps of a chain run only after every earlier one
    succeeded and no cancel was requested; otherwise they are cancelled. When nothing is left
    to do, the first step that did not succeed decides the job.
    """
    rows = await _STEPS_OF_JOB.all(connection, job_id=job_id)
    waiting = [row for row in rows if row.state not in TERMINAL]
    if waiting and waiting[0].state != StepState.PENDING:
        return None  # an earlier step has not ended
    broken = next(
        (row for row in rows if row.state in (StepState.FAILED, StepState.CANCELLED)), None
    )
    if waiting and broken is None and not await _cancel_requested(connection, job_id):
        return await _queue(connection, waiting[0])
    if waiting:
        why = "on request" if broken is None else f"because step {broken.name} {broken.state}"
        await end_waiting_steps(connection, job_id, message=f"cancelled {why}")
        broken = broken or waiting[0]
    if broken is None:
        status, reason, error = Status.SUCCEEDED, Reason.COMPLETED, None
    elif broken.state == StepState.FAILED:
        status, reason, error = Status.FAILED, Reason(broken.reason), broken.error
    else:
        status, reason, error = Status.CANCELLED, Reason.CANCELLED, CANCELLED_ERROR
    await jobs.finish_job(connection, job_id, status=status, reason=reason, error=error)
    return None


async def _cancel_requested(connection: AsyncConnection, job_id: UUID) -> bool:
    moment = await connection.scalar(
        select(t.jobs.c.cancel_requested_at).where(t.jobs.c.id == job_id)
    )
    return moment is not None


async def _queue(connection: AsyncConnection, step: Any) -> UUID:
    await connection.execute(
        update(t.steps)
        .where(t.steps.c.id == step.id)
        .values(state=StepState.QUEUED, run_at=func.now(), updated_at=func.now())
    )
    return UUID(str(step.id))


async def request_cancel(
    connection: AsyncConnection, job_id: UUID, *, user: str | None = None
) -> bool | None:
    """Cancel the steps that wait, mark the one that runs; None when there is no such job.

    True when this call ended the job; its owner ends it otherwise, or it had ended before.

    Idempotent: a job that has ended, or was marked before, stays as it is.
    """
    status = await jobs.lock(connection, job_id, user=user)
    if status is None:
        return None
    if status in ENDED:
        return False
    await connection.execute(
        update(t.jobs)
        .where(t.jobs.c.id == job_id, t.jobs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=func.clock_timestamp())
    )
    steps = await _lock_steps(connection, job_id)
    await end_waiting_steps(connection, job_id)
    if any(step.state in OWNED for step in steps):
        await _mark_owned_steps(connection, job_id)
        return False
    ended = await jobs.finish_job(
        connection,
        job_id,
        status=Status.CANCELLED,
        reason=Reason.CANCELLED,
        error=CANCELLED_ERROR,
    )
    for step in steps:
        if step.state == StepState.QUEUED:
            await usage.charge_execution(connection, step, ended=True)
    return ended


async def end_waiting_steps(
    connection: AsyncConnection, job_id: UUID, *, message: str = "cancelled before it started"
) -> None:
    """Every step without an owner becomes `cancelled`. The job's row is locked.

    Also what happens to the rest of a chain when one of its steps ends otherwise than succeeded.
    """
    ended = await connection.execute(
        update(t.steps)
        .where(
            t.steps.c.job_id == job_id, t.steps.c.state.in_((StepState.PENDING, StepState.QUEUED))
        )
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
        await append_events(connection, job_id, [step_cancelled(row, message) for row in rows])


def step_cancelled(step: Any, message: str) -> NewEvent:
    """The event of a step that ends as cancelled without an owner."""
    return NewEvent(
        code=Code.STEP_FINISH,
        message=f"step {step.name}: {message}",
        step_id=step.id,
        payload={
            "step": step.name,
            "state": StepState.CANCELLED,
            "reason": Reason.CANCELLED,
        },
    )


async def _lock_steps(connection: AsyncConnection, job_id: UUID) -> Sequence[Row[Any]]:
    rows = await connection.execute(
        select(t.steps)
        .where(t.steps.c.job_id == job_id)
        .order_by(t.steps.c.id)
        .with_for_update(key_share=True)
    )
    return rows.all()


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
