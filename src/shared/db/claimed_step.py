"""What a worker learns of a step that it has just claimed."""

from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.events import last_event
from shared.db.tables import columns_of, read
from shared.events import Code
from shared.models.descriptor import parts_of
from shared.step_store import Claim, PinnedInput, PinnedModel, StepInput, StoredArtifact


async def read_claim(connection: AsyncConnection, step: Row[Any], *, overdue: bool) -> Claim:
    """The claim of `step`, whose row has `vram_waited_s` and `queued_s` beside its columns."""
    job = (await connection.execute(select(t.jobs).where(t.jobs.c.id == step.job_id))).one()
    chain_length = await connection.scalar(
        select(func.count()).where(t.steps.c.job_id == step.job_id)
    )
    shown = await last_event(connection, step.job_id, Code.PROGRESS)
    done = await connection.scalars(
        select(t.artifacts.c.item_index)
        .where(t.artifacts.c.job_id == step.job_id, t.artifacts.c.step_id == step.id)
        .order_by(t.artifacts.c.item_index)
    )
    return read(
        Claim,
        {**job._mapping, **step._mapping},  # where both have a column, the step's counts
        step_id=step.id,
        user=job.user,
        cancel_requested=step.cancel_requested_at is not None,
        vram_waited_s=float(step.vram_waited_s),
        model=await pinned_model(connection, step),
        done_items=tuple(done),
        inputs=await _inputs(connection, step),
        chain_length=chain_length,
        progress=float((shown.payload or {}).get("progress", 0.0)) if shown else 0.0,
        queued_s=float(step.queued_s),
        overdue=overdue,
    )


async def pinned_model(connection: AsyncConnection, step: Row[Any]) -> PinnedModel | None:
    """The model that the step was accepted for, if it needs one."""
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


async def _inputs(connection: AsyncConnection, step: Row[Any]) -> tuple[StepInput, ...]:
    """What users sent for a first step, else what the step before this one made. That one has
    succeeded, so its rows do not change any more: retention leaves the pictures of a job alone that
    has not ended."""
    if step.position == 0:
        return tuple(PinnedInput(**each) for each in step.inputs or ())
    rows = await connection.execute(
        select(*columns_of(t.artifacts, StoredArtifact))
        .join(t.steps, t.steps.c.id == t.artifacts.c.step_id)
        .where(t.steps.c.job_id == step.job_id, t.steps.c.position == step.position - 1)
        .order_by(t.artifacts.c.item_index)
    )
    return tuple(StoredArtifact(**row) for row in rows.mappings())
