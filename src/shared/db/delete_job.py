"""Delete a job on request: its objects, then its rows.

The caller asks for the keys, deletes the objects, and then has the rows deleted. If it dies in
between, the rows still name what is left: the same request goes on there, and the pruner takes the
job at its age. In the other order a repeated request would find no job, and the pictures would stay
until the pruner takes objects without a row.

Nothing but an end makes artifacts impossible, so a job that lives is refused. Two requests at once
do no harm: an object, or a row, that is not there is deleted already. Where a kill leaves the copy
of a picture without its row, the pruner takes the object.
"""

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import inputs, jobs
from shared.db import tables as t
from shared.errors import Conflict
from shared.states import ENDED


def not_ended(job_id: UUID, status: str) -> Conflict:
    """The refusal of a job that lives."""
    return Conflict(
        f"job {job_id} is {status}; cancel it and wait for its end, then delete it",
        job_id=str(job_id),
        status=status,
    )


async def keys_of_ended(connection: AsyncConnection, job_id: UUID, *, user: str) -> list[str]:
    """The keys of the job's objects; none where this user has no such job. Copies of its pictures
    among the user's inputs lose their rows here already: no job may start from them any more.

    Raises `Conflict` while the job lives.
    """
    status = await jobs.lock(connection, job_id, user=user)
    if status is None:
        return []
    if status not in ENDED:
        raise not_ended(job_id, status)
    copies = await inputs.delete_copies(connection, job_id, user=user)
    return [*await keys_of(connection, job_id), *copies]


async def keys_of(connection: AsyncConnection, job_id: UUID) -> list[str]:
    """The keys of the objects that the job's rows name."""
    keys = await connection.scalars(
        select(t.artifacts.c.s3_key)
        .where(t.artifacts.c.job_id == job_id)
        .order_by(t.artifacts.c.s3_key)
    )
    return list(keys)


async def delete_ended(connection: AsyncConnection, job_id: UUID, *, user: str) -> None:
    """Delete the rows of an ended job: its own, and with it all that refer to it.

    A job that was made from this one stays, and does not say from which any more.
    """
    await connection.execute(
        delete(t.jobs).where(
            t.jobs.c.id == job_id, t.jobs.c.user == user, t.jobs.c.status.in_(sorted(ENDED))
        )
    )
