"""What a worker learns of a step that it has just claimed."""

from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.events import last_progress
from shared.db.statement import Statement
from shared.db.stored_json import Input, mapping, progress_in
from shared.db.tables import columns_of, read
from shared.models.descriptor import parts_of
from shared.step_store import Claim, PinnedInput, PinnedModel, StepInput, StoredArtifact
from shared.typed_json import Mismatch, typed


async def read_claim(connection: AsyncConnection, step: Any, *, overdue: bool) -> Claim:
    """The claim of `step`, whose row has `vram_waited_s` and `queued_s` beside its columns.

    A row that cannot be read is claimed all the same: `supervisor.execution.run_spec` ends its step
    alone, where an error here would end each worker that looks for a step.
    """
    job = await _JOB.one(connection, job_id=step.job_id, step_id=step.id)
    unreadable = None
    try:
        inputs = await _inputs(connection, step)
    except Mismatch as mismatch:
        inputs, unreadable = (), f"inputs{mismatch}"
    return read(
        Claim,
        {**job._asdict(), **step._asdict()},  # where both have a column, the step's counts
        step_id=step.id,
        user=job.user,
        cancel_requested=step.cancel_requested_at is not None,
        vram_waited_s=float(step.vram_waited_s),
        model=await pinned_model(connection, step),
        done_items=tuple(sorted(job.done_items or ())),
        params=mapping(step.params),
        preset=mapping(step.preset),
        inputs=inputs,
        unreadable=unreadable,
        progress=progress_in(job.shown),
        queued_s=float(step.queued_s),
        overdue=overdue,
    )


_STEPS = t.steps.alias()
_JOB = Statement(
    select(
        t.jobs,
        select(func.count())
        .where(_STEPS.c.job_id == t.jobs.c.id)
        .scalar_subquery()
        .label("chain_length"),
        last_progress(t.jobs.c.id).label("shown"),
        select(func.array_agg(t.artifacts.c.item_index))
        .where(t.artifacts.c.job_id == t.jobs.c.id, t.artifacts.c.step_id == bindparam("step_id"))
        .scalar_subquery()
        .label("done_items"),
    ).where(t.jobs.c.id == bindparam("job_id"))
)


async def pinned_model(connection: AsyncConnection, step: Any) -> PinnedModel | None:
    """The model that the step was accepted for, if it needs one."""
    if step.model_id is None:
        return None
    model = await _MODEL.one(connection, model_id=step.model_id)
    return read(
        PinnedModel,
        model,
        checkpoint_sha256=step.checkpoint_sha256,
        parts=parts_of(model.descriptor),
    )


_MODEL = Statement(select(t.models).where(t.models.c.id == bindparam("model_id")))


async def _inputs(connection: AsyncConnection, step: Any) -> tuple[StepInput, ...]:
    """What users sent for a first step, else what the step before this one made. That one has
    succeeded, so its rows do not change any more: retention leaves the pictures of a job alone that
    has not ended. Raises `Mismatch`."""
    if step.position == 0:
        pinned = [] if step.inputs is None else typed(list[Input], step.inputs)
        return tuple(read(PinnedInput, each) for each in pinned)
    rows = await connection.execute(
        select(*columns_of(t.artifacts, StoredArtifact))
        .join(t.steps, t.steps.c.id == t.artifacts.c.step_id)
        .where(t.steps.c.job_id == step.job_id, t.steps.c.position == step.position - 1)
        .order_by(t.artifacts.c.item_index)
    )
    return tuple(StoredArtifact(**row) for row in rows.mappings())
