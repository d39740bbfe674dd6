"""Create a job: its row, its steps and `job.created` in one transaction, once per idempotency key.

Two creates with one key at the same instant meet at the unique index over (user, key_hash). The
second waits there until the first has committed, inserts nothing, and reads the winner's row. An
expired key is cleared in the same transaction, so it never blocks a new job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.events import append_events
from shared.db.tables import jobs, read, steps, values_of
from shared.errors import Conflict
from shared.events import Code, NewEvent
from shared.states import Status, StepState

# The winner's row can expire and be cleared between our insert and our look at it. Once is
# conceivable, three times in a row is a bug.
MAX_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotencyKey:
    """`key_hash` is the SHA-256 of the client's key, `fingerprint` that of the canonical body."""

    key_hash: str
    fingerprint: str
    ttl_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStep:
    """A step with everything that it needs pinned, so that a later edit changes no accepted job."""

    id: UUID
    name: str
    type: str
    params: dict[str, Any]
    queue: str
    device: str
    preset: dict[str, Any]
    vram_bytes: int
    timeout_s: float
    model_id: UUID | None  # None: the step needs no model
    checkpoint_sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A job to insert. `steps` run in this order; the first one may be claimed at once."""

    id: UUID
    type: str
    user: str
    request: dict[str, Any]
    count: int
    correlation_id: str
    steps: Sequence[NewStep]
    client_request_id: str | None = None
    traceparent: str | None = None
    key: IdempotencyKey | None = None
    replay_of: UUID | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """The job of an answer. `first_step` is None when an earlier request made the job."""

    id: UUID
    type: str
    created_at: datetime
    first_step: NewStep | None

    @property
    def replayed(self) -> bool:
        return self.first_step is None


async def create_job(connection: AsyncConnection, new: NewJob) -> Created:
    """Insert the job, or return the one that its key made before.

    Raises `Conflict` when the key was used with another body.
    """
    for _ in range(MAX_ROUNDS):
        created_at = await _insert(connection, new)
        if created_at is not None:
            await _insert_steps(connection, new)
            return _created(new, created_at)
        assert new.key is not None
        earlier = await find_by_key(connection, new.user, new.key)
        if earlier is not None:
            return earlier
    raise Conflict("this Idempotency-Key is in use by other requests at this moment; try again")


async def find_by_key(
    connection: AsyncConnection, user: str, key: IdempotencyKey | None
) -> Created | None:
    """The job that was made with this key, until the key expires; without a key none.

    Raises `Conflict` when its request was another one.
    """
    if key is None:
        return None
    rows = await connection.execute(
        select(jobs.c.id, jobs.c.type, jobs.c.created_at, jobs.c.fingerprint).where(
            jobs.c.user == user,
            jobs.c.key_hash == key.key_hash,
            jobs.c.key_expires_at > func.clock_timestamp(),
        )
    )
    row = rows.first()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise Conflict(
            "this Idempotency-Key was used with another request body; use a new key",
            job_id=str(row.id),
        )
    return read(Created, row._mapping, first_step=None)


async def find_created(connection: AsyncConnection, new: NewJob) -> Created | None:
    """`new`, if it was committed after all: the answer of its commit was lost."""
    created_at = await connection.scalar(select(jobs.c.created_at).where(jobs.c.id == new.id))
    return None if created_at is None else _created(new, created_at)


def _created(new: NewJob, created_at: datetime) -> Created:
    return Created(id=new.id, type=new.type, created_at=created_at, first_step=new.steps[0])


async def _insert(connection: AsyncConnection, new: NewJob) -> datetime | None:
    """The job's row; None when its key is taken."""
    row = values_of(jobs, new, status=Status.QUEUED)
    if new.key is not None:
        await _clear_expired(connection, new.user, new.key)
        row |= {
            "key_hash": new.key.key_hash,
            "fingerprint": new.key.fingerprint,
            "key_expires_at": func.now() + timedelta(seconds=new.key.ttl_s),
        }
    statement = (
        upsert(jobs)
        .values(row)
        .on_conflict_do_nothing(
            index_elements=[jobs.c.user, jobs.c.key_hash],
            index_where=text("key_hash IS NOT NULL"),
        )
        .returning(jobs.c.created_at)
    )
    created_at: datetime | None = (await connection.execute(statement)).scalar()
    return created_at


async def _clear_expired(connection: AsyncConnection, user: str, key: IdempotencyKey) -> None:
    await connection.execute(
        update(jobs)
        .where(
            jobs.c.user == user,
            jobs.c.key_hash == key.key_hash,
            jobs.c.key_expires_at <= func.clock_timestamp(),
        )
        .values(key_hash=None, fingerprint=None, key_expires_at=None)
    )


async def _insert_steps(connection: AsyncConnection, new: NewJob) -> None:
    await connection.execute(
        insert(steps),
        [
            values_of(
                steps,
                step,
                job_id=new.id,
                position=position,
                state=StepState.PENDING if position else StepState.QUEUED,
            )
            for position, step in enumerate(new.steps)
        ],
    )
    await append_events(
        connection,
        new.id,
        [
            NewEvent(
                code=Code.JOB_CREATED,
                message=f"{new.type} job of {new.count} accepted",
                payload={
                    "type": new.type,
                    "count": new.count,
                    "steps": [step.name for step in new.steps],
                    "correlation_id": new.correlation_id,
                    "client_request_id": new.client_request_id,
                },
            )
        ],
    )
