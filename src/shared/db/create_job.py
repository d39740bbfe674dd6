"""Create a job: its row, its steps and `job.created` in one transaction, once per idempotency key.

Two creates with one key at the same instant meet at the unique index over (user, key_hash). The
second waits there until the first has committed, inserts nothing, and reads the winner's row. An
expired key is cleared in the same transaction, so it never blocks a new job.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.insert_job import IdempotencyKey, Inserted, NewJob, NewStep, insert_job
from shared.db.tables import jobs, read
from shared.errors import Conflict

# The winner's row can expire and be cleared between our insert and our look at it. Once is
# conceivable, three times in a row is a bug.
MAX_ROUNDS = 3
_FOREIGN_KEY_VIOLATION = "23503"


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

    Raises `Conflict` when the key was used with another body. The transaction keeps the pictures
    that the job starts from (`inputs.keep`).
    """
    for _ in range(MAX_ROUNDS):
        if new.key is not None:
            await _clear_expired(connection, new.user, new.key)
        if (inserted := await insert_job(connection, new)) is not None:
            return created(new, inserted.created_at)
        assert new.key is not None
        earlier = await find_by_key(connection, new.user, new.key)
        if earlier is not None:
            return earlier
    raise Conflict("this Idempotency-Key is in use by other requests at this moment; try again")


async def try_create_job(
    connection: AsyncConnection,
    new: NewJob,
    *,
    registry_version: str,
    unfinished_below: int | None,
) -> Inserted | None:
    """Insert the job with one statement, or None: see `insert_job` for what may stand in its way.

    One more thing may: its model was removed while the statement ran.
    """
    try:
        return await insert_job(
            connection, new, registry_version=registry_version, unfinished_below=unfinished_below
        )
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY_VIOLATION:
            return None
        raise


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
    return None if created_at is None else created(new, created_at)


def created(new: NewJob, created_at: datetime) -> Created:
    """The answer for a job that this request made."""
    return Created(id=new.id, type=new.type, created_at=created_at, first_step=new.steps[0])


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
