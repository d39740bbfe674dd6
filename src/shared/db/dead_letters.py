"""Dead letters: jobs that failed after the last attempt they may have.

`replay` makes another job from what the dead one had pinned: the same preset, limits and
checkpoint. `drop` deletes the rows and returns the keys of objects that no row names any more. The
caller deletes those after the commit, never before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Row, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import inputs, jobs
from shared.db import tables as t
from shared.db.create_job import Created, create_job
from shared.db.delete_job import keys_of
from shared.db.insert_job import NewJob, NewStep, input_ids
from shared.db.stored_json import Named, Params, Webhook, mapping
from shared.db.tables import columns_of, read
from shared.errors import Conflict, ModelUnavailable, NotFound
from shared.states import ENDED, Reason, Status
from shared.typed_json import Mismatch, typed


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadJob:
    """A job on the list. `error` holds the last try's under `details.last_error`."""

    id: UUID
    type: str
    user: str
    created_at: datetime
    finished_at: datetime
    error: dict[str, Any]
    request: dict[str, Any]
    replay_of: UUID | None

    @property
    def why(self) -> str:
        """Code and message of the last try, or of the job, whatever stands in the column."""
        own = mapping(self.error)
        last = mapping(mapping(own.get("details")).get("last_error")) or own
        code, message = last.get("code", "attempts_exhausted"), last.get("message")
        return f"{code}: {message or own.get('message', '')}"


_COLUMNS = columns_of(t.jobs, DeadJob)
# By status as well as by reason: the index on (status, updated_at) then finds them.
_DEAD = (t.jobs.c.status == Status.FAILED) & (t.jobs.c.reason == Reason.ATTEMPTS_EXHAUSTED)


async def page(
    connection: AsyncConnection, *, limit: int, user: str | None = None
) -> list[DeadJob]:
    """Up to `limit` dead jobs of one user or of all (None), the latest first."""
    rows = await connection.execute(
        select(*_COLUMNS)
        .where(_DEAD, *_of(user))
        .order_by(t.jobs.c.updated_at.desc(), t.jobs.c.id.desc())
        .limit(limit)
    )
    return [DeadJob(**row) for row in rows.mappings()]


def _of(user: str | None) -> list[ColumnElement[bool]]:
    return [] if user is None else [t.jobs.c.user == user]


async def get(connection: AsyncConnection, job_id: UUID, *, user: str | None = None) -> DeadJob:
    """Raises `NotFound` when there is no such job of this user, or it is not dead."""
    rows = await connection.execute(
        select(*_COLUMNS).where(_DEAD, t.jobs.c.id == job_id, *_of(user))
    )
    row = rows.mappings().first()
    if row is None:
        raise NotFound(f"{job_id} is not on the dead-letter list")
    return DeadJob(**row)


async def replays_of(connection: AsyncConnection, job_id: UUID) -> list[tuple[UUID, Status]]:
    """The jobs that were made from this one, oldest first."""
    rows = await connection.execute(
        select(t.jobs.c.id, t.jobs.c.status)
        .where(t.jobs.c.replay_of == job_id)
        .order_by(t.jobs.c.created_at, t.jobs.c.id)
    )
    return [(row.id, Status(row.status)) for row in rows]


async def replay(connection: AsyncConnection, job_id: UUID, *, user: str | None = None) -> Created:
    """Make a new job of the same request, for the same user, with the same things pinned.

    Raises `NotFound`; `Conflict` while an earlier replay has not ended, when a picture that it
    starts from is gone, and when its row cannot be read; `ModelUnavailable` when its model was
    disabled or is another checkpoint by now, so that the new job could never run.
    """
    # The job's lock makes replays of one job take turns, and keeps a `drop` out until our commit.
    await jobs.lock(connection, job_id)
    await get(connection, job_id, user=user)
    for replayed, status in await replays_of(connection, job_id):
        if status not in ENDED:
            raise Conflict(f"job {replayed} is a replay of {job_id} and has not ended yet")
    row = (await connection.execute(select(t.jobs).where(t.jobs.c.id == job_id))).one()
    pinned_steps = await connection.execute(
        select(t.steps, t.models.c.name.label("model"), t.models.c.enabled)
        .add_columns(t.models.c.version, t.models.c.checkpoint_sha256.label("current_sha256"))
        .outerjoin(t.models, t.models.c.id == t.steps.c.model_id)
        .where(t.steps.c.job_id == job_id)
        .order_by(t.steps.c.position)
    )
    steps = list(pinned_steps)
    _check_stored(row, steps)
    for step in steps:
        await _check_loras(connection, step)
    usage_tags = await connection.scalars(
        select(t.job_tags.c.key).where(t.job_tags.c.job_id == job_id, t.job_tags.c.in_usage)
    )
    again = read(
        NewJob,
        row,
        id=uuid4(),
        replay_of=job_id,
        usage_tags=list(usage_tags),
        steps=[_again(step) for step in steps],
    )
    named = input_ids(again)
    kept = await inputs.keep(connection, named)
    for id in named:
        if id not in kept:
            raise Conflict(f"picture {id}, which job {job_id} starts from, is deleted")
    return await create_job(connection, again)


def _check_stored(job: Row[Any], steps: Sequence[Row[Any]]) -> None:
    """Raise `Conflict` for columns of which no job can be made; the old job stays as it is."""
    columns: list[tuple[str, Any, object]] = [
        ("request", dict[str, Any], job.request),
        ("tags", dict[str, str], job.tags),
        ("webhook", Webhook | None, job.webhook),
    ]
    for step in steps:
        columns += [
            ("params", Params, step.params),
            ("preset", dict[str, Any], step.preset),
            ("inputs", list[Named] | None, step.inputs),
        ]
    for name, shape, value in columns:
        try:
            typed(shape, value)
        except Mismatch as mismatch:
            raise Conflict(
                f"job {job.id} cannot be replayed: its {name} cannot be read ({mismatch}); create "
                "a job instead"
            ) from None


async def _check_loras(connection: AsyncConnection, step: Row[Any]) -> None:
    """Raise `ModelUnavailable` for a LoRA that is not what the step was accepted with."""
    for lora in step.params.get("loras", ()):
        query = select(t.models.c.enabled).where(
            t.models.c.id == UUID(lora["id"]),
            t.models.c.checkpoint_sha256 == lora["checkpoint_sha256"],
        )
        if not (await connection.execute(query)).scalar():
            raise ModelUnavailable(
                f"LoRA {lora['name']}@{lora['version']} is disabled, gone, or another one than the "
                "one that this job was accepted with"
            )


def _again(step: Row[Any]) -> NewStep:
    """The same step, not begun. Raises `ModelUnavailable`."""
    model = f"{step.model}@{step.version}"
    if step.model_id is not None and not step.enabled:
        raise ModelUnavailable(f"model {model} is disabled, so no new job may use it")
    if step.model_id is not None and step.current_sha256 != step.checkpoint_sha256:
        raise ModelUnavailable(
            f"model {model} is another checkpoint than the one that this job was accepted for; "
            "create a job instead of replaying this one"
        )
    return read(NewStep, step, id=uuid4())


async def drop(connection: AsyncConnection, job_id: UUID) -> list[str]:
    """Delete a dead job with all its rows; return the keys of its objects, now named by none.

    Raises `NotFound`. A caller that dies before it has deleted the objects leaves them to `prune`.
    """
    await jobs.lock(connection, job_id)
    await get(connection, job_id)
    orphaned = await keys_of(connection, job_id)
    await connection.execute(delete(t.jobs).where(t.jobs.c.id == job_id))
    return orphaned
