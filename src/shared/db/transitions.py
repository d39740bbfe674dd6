"""The end of a try: the step's row, its events, and what that means for its job."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, literal, update
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import events as event_log
from shared.db.settle import settle_job
from shared.db.tables import jobs, steps
from shared.states import Status, StepState
from shared.step_store import AttemptResult


def seconds_from_now(seconds: float) -> Any:
    """A moment by PostgreSQL's clock, the only one that is ever stored."""
    return func.now() + literal(timedelta(seconds=seconds), INTERVAL)


async def end_step(connection: AsyncConnection, row: Row[Any], end: AttemptResult) -> UUID | None:
    """Write a try's end to a step whose locks are held, and settle its job if that decides it.

    Returns the id of the step that became claimable: this one again, or its successor.
    """
    requeued = end.state is StepState.QUEUED
    await connection.execute(
        update(steps)
        .where(steps.c.id == row.id)
        .values(
            state=end.state,
            reason=end.reason,
            # What ended an earlier try stays known while nothing new ended this one.
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
    await event_log.append(connection, row.job_id, end.events)
    if requeued:
        # A job whose try ended shows as queued again: nothing of it runs.
        await connection.execute(
            update(jobs)
            .where(jobs.c.id == row.job_id, jobs.c.status == Status.RUNNING)
            .values(status=Status.QUEUED, updated_at=func.now())
        )
        return UUID(str(row.id))
    return await settle_job(connection, row.job_id)
