"""How much of the fabric a user takes: what the API's bounds are compared with.

The rows are the count, so the bounds hold across api processes and restarts without a table or a
service of their own. Who is about to create holds the user's lock from looking to commit, or two
at the same instant would both see the last free place.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.jobs import ENDED
from shared.db.tables import jobs, steps
from shared.states import Status, StepState

# First half of the lock's key; the other is the user. Locks with two halves are a space apart.
_CREATING = 0x6466
_UNFINISHED = [status for status in Status if status not in ENDED]


async def lock_user(connection: AsyncConnection, user: str) -> None:
    """Make other creates of this user wait until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(_CREATING, func.hashtext(user))))


async def unfinished_jobs(connection: AsyncConnection, user: str, *, up_to: int) -> int:
    """Jobs of this user that wait or run. Counting stops at `up_to`."""
    found = (
        select(jobs.c.id)
        .where(jobs.c.user == user, jobs.c.status.in_(_UNFINISHED))
        .limit(up_to)
        .subquery()
    )
    count: int = (await connection.execute(select(func.count()).select_from(found))).scalar_one()
    return count


async def age_of_job(connection: AsyncConnection, user: str, *, newest: int) -> float | None:
    """Seconds since this user's job number `newest` (1: the last one) was created; None: fewer."""
    age = func.extract("epoch", func.clock_timestamp() - jobs.c.created_at)
    found = await connection.execute(
        select(age)
        .where(jobs.c.user == user)
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        .offset(newest - 1)
        .limit(1)
    )
    seconds = found.scalar()
    return None if seconds is None else float(seconds)


# Counting stops here: a scrape must not walk a million rows to say "very many".
MAX_COUNTED = 10_000


async def queue_depth(connection: AsyncConnection) -> int:
    """Steps that could be claimed now or later, at most `MAX_COUNTED`."""
    waiting = (
        select(steps.c.id).where(steps.c.state == StepState.QUEUED).limit(MAX_COUNTED).subquery()
    )
    depth: int = (await connection.execute(select(func.count()).select_from(waiting))).scalar_one()
    return depth
