"""The claim: which step a free slot takes, and what its worker learns of it.

Rules of this file
------------------
* The oldest step that is due and fits. The partial index over queued steps finds it, so a million
  waiting jobs cost a claim nothing.
* `SKIP LOCKED` lets claims pass each other, and a job that another transaction writes to.
* It locks the job's row and the step's, `FOR NO KEY UPDATE` as everywhere (`shared.db.step_store`).
* `epoch` rises with each claim: every later write of an earlier owner is refused.
"""

from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.events import last_event
from shared.db.tables import columns_of, read
from shared.db.transitions import seconds_from_now
from shared.events import Code
from shared.models.descriptor import parts_of
from shared.states import StepState
from shared.step_store import Claim, ClaimRequest, PinnedModel, StoredArtifact, UpcomingStep


def _due(request: ClaimRequest, *columns: ColumnElement[Any]) -> Select[Any]:
    """Steps that fit the slot, the next one first."""
    return (
        select(*columns)
        .where(
            t.steps.c.state == StepState.QUEUED,
            t.steps.c.queue.in_(request.queues),
            t.steps.c.device == request.device,
            t.steps.c.run_at <= func.now(),
            t.steps.c.vram_bytes <= request.capacity_bytes,
            or_(t.steps.c.model_id.is_(None), t.steps.c.model_id.in_(request.models)),
        )
        .order_by(t.steps.c.run_at, t.steps.c.id)
    )


async def upcoming_steps(
    connection: AsyncConnection, request: ClaimRequest, limit: int
) -> list[UpcomingStep]:
    """What `claim_due_step` would claim next, in its order, without a lock."""
    columns = columns_of(t.steps, UpcomingStep)
    query = _due(request, *columns, t.steps.c.model_id, t.steps.c.checkpoint_sha256).limit(limit)
    return [
        read(UpcomingStep, row, model=await _pinned_model(connection, row))
        for row in (await connection.execute(query)).all()
    ]


async def claim_due_step(connection: AsyncConnection, request: ClaimRequest) -> Claim | None:
    query = (
        _due(request, t.steps.c.id.label("step_id"), t.jobs.c.id.label("job_id"))
        .join(t.jobs, t.jobs.c.id == t.steps.c.job_id)
        .limit(1)
        .with_for_update(of=(t.jobs, t.steps), key_share=True, skip_locked=True)
    )
    due = (await connection.execute(query)).first()
    if due is None:
        return None
    claimed = (
        await connection.execute(
            update(t.steps)
            .where(t.steps.c.id == due.step_id)
            .values(
                state=StepState.LEASED,
                epoch=t.steps.c.epoch + 1,
                lease_owner=request.worker_id,
                lease_expires_at=seconds_from_now(request.lease_s),
                claimed_at=func.now(),
                updated_at=func.now(),
            )
            .returning(
                *t.steps.c,
                func.coalesce(
                    func.extract("epoch", func.now() - t.steps.c.vram_wait_since), 0
                ).label("vram_waited_s"),
                func.extract("epoch", func.now() - t.steps.c.run_at).label("queued_s"),
            )
        )
    ).one()
    job = (await connection.execute(select(t.jobs).where(t.jobs.c.id == due.job_id))).one()
    chain_length = await connection.scalar(
        select(func.count()).where(t.steps.c.job_id == due.job_id)
    )
    shown = await last_event(connection, due.job_id, Code.PROGRESS)
    done = await connection.scalars(
        select(t.artifacts.c.item_index)
        .where(t.artifacts.c.job_id == due.job_id, t.artifacts.c.step_id == due.step_id)
        .order_by(t.artifacts.c.item_index)
    )
    return read(
        Claim,
        {**job._mapping, **claimed._mapping},  # where both have a column, the step's counts
        step_id=claimed.id,
        cancel_requested=claimed.cancel_requested_at is not None,
        vram_waited_s=float(claimed.vram_waited_s),
        model=await _pinned_model(connection, claimed),
        done_items=tuple(done),
        inputs=await _inputs(connection, claimed),
        chain_length=chain_length,
        progress=float((shown.payload or {}).get("progress", 0.0)) if shown else 0.0,
        queued_s=float(claimed.queued_s),
    )


async def _pinned_model(connection: AsyncConnection, step: Row[Any]) -> PinnedModel | None:
    if step.model_id is None:
        return None
    query = select(t.models).where(t.models.c.id == step.model_id)
    model = (await connection.execute(query)).one()
    return read(
        PinnedModel,
        model,
        checkpoint_sha256=step.checkpoint_sha256,
        parts=parts_of(model.descriptor),
    )


async def _inputs(connection: AsyncConnection, step: Row[Any]) -> tuple[StoredArtifact, ...]:
    """What the step before this one made. It has succeeded, so these rows do not change any more:
    retention leaves the pictures of a job alone that has not ended."""
    if step.position == 0:
        return ()
    rows = await connection.execute(
        select(*columns_of(t.artifacts, StoredArtifact))
        .join(t.steps, t.steps.c.id == t.artifacts.c.step_id)
        .where(t.steps.c.job_id == step.job_id, t.steps.c.position == step.position - 1)
        .order_by(t.artifacts.c.item_index)
    )
    return tuple(StoredArtifact(**row) for row in rows.mappings())
