"""Jobs: read them, list them, count a user's, and write the verdict that ends one.

Making one is in `create_job`, cancelling one in `transitions`. Lock order everywhere: the job's row
first (`FOR NO KEY UPDATE`, which leaves foreign key checks of concurrent inserts alone), then its
steps by id.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Select,
    any_,
    bindparam,
    case,
    func,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.events import append_events, last_progress
from shared.db.statement import Statement
from shared.db.stored_json import error_of, object_or_none, progress_in, texts
from shared.db.stored_values import EARLIEST, seconds
from shared.db.tables import IS_QUEUED, artifacts, columns_of, job_tags, jobs, one_of, read, steps
from shared.db.usage import count_job
from shared.events import Code, NewEvent
from shared.states import ENDED, STATUS_OF, Reason, Status, StepState

# The body of a job's create and its first step's parameters, each None where it is not known.
Asked = tuple[dict[str, Any] | None, dict[str, Any] | None]

_UNFINISHED = [status for status in Status if status not in ENDED]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What the API shows of a step."""

    id: UUID
    name: str
    type: str
    state: StepState
    reason: Reason | None
    attempt: int

    @property
    def status(self) -> Status:
        return STATUS_OF[self.state]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job without its steps, as listed. `completed` counts items that the last step finished."""

    id: UUID
    type: str
    user: str
    priority: str
    status: Status
    reason: Reason | None
    error: dict[str, Any] | None
    count: int
    completed: int
    tags: dict[str, str]
    event_seq: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def _completed() -> Any:
    """Items whose last step has its artifact: what a client would call finished.

    All of them once the job succeeded, whatever became of its pictures since.
    """
    last = (
        select(steps.c.id)
        .where(steps.c.job_id == jobs.c.id)
        .order_by(steps.c.position.desc())
        .limit(1)
        .correlate(jobs)
        .scalar_subquery()
    )
    stored = (
        select(func.count())
        .select_from(artifacts)
        .where(artifacts.c.job_id == jobs.c.id, artifacts.c.step_id == last)
        .correlate(jobs)
        .scalar_subquery()
    )
    return case((jobs.c.status == Status.SUCCEEDED, jobs.c.count), else_=stored).label("completed")


def _jobs() -> Select[Any]:
    return select(*columns_of(jobs, Job), _completed())


def _job(row: Mapping[str, Any]) -> Job:
    return read(
        Job,
        row,
        status=Status(row["status"]),
        reason=_reason(row["reason"]),
        error=None if row["error"] is None else error_of(row["error"]),
        tags=texts(row["tags"]),
    )


def _reason(text: str | None) -> Reason | None:
    return None if text is None else Reason(text)


async def get(connection: AsyncConnection, job_id: UUID, *, user: str | None = None) -> Job | None:
    """The job, or None when there is none or it is another user's."""
    if user is None:
        row = await _JOB.first(connection, job_id=job_id)
    else:
        row = await _JOB_OF_USER.first(connection, job_id=job_id, user=user)
    return None if row is None else _job(row._asdict())


_BY_ID = _jobs().where(jobs.c.id == bindparam("job_id"))
_JOB = Statement(_BY_ID)
_JOB_OF_USER = Statement(_BY_ID.where(jobs.c.user == bindparam("user")))


async def asked_of(connection: AsyncConnection, job_id: UUID) -> Asked | None:
    """What the job's client asked for, and what became of it; None when it is gone."""
    rows = await connection.execute(
        select(jobs.c.request, steps.c.params)
        .select_from(jobs.join(steps, steps.c.job_id == jobs.c.id))
        .where(jobs.c.id == job_id, steps.c.position == 0)
    )
    row = rows.first()
    return None if row is None else (object_or_none(row.request), object_or_none(row.params))


async def of_user(
    connection: AsyncConnection, user: str, job_ids: Collection[UUID]
) -> frozenset[UUID]:
    """Those of the jobs that are this user's."""
    query = select(jobs.c.id).where(jobs.c.user == user, jobs.c.id.in_(job_ids))
    return frozenset(await connection.scalars(query))


async def existing(connection: AsyncConnection, job_ids: Collection[UUID]) -> frozenset[UUID]:
    """Those of the jobs that have not been deleted."""
    return frozenset(await connection.scalars(select(jobs.c.id).where(jobs.c.id.in_(job_ids))))


async def steps_of(connection: AsyncConnection, job_ids: Sequence[UUID]) -> dict[UUID, list[Step]]:
    """The steps of each of these jobs, in their order."""
    rows = await _STEPS.all(connection, job_ids=list(job_ids))
    by_job: dict[UUID, list[Step]] = {job_id: [] for job_id in job_ids}
    for row in rows:
        step = read(Step, row, state=StepState(row.state), reason=_reason(row.reason))
        by_job[row.job_id].append(step)
    return by_job


_STEPS = Statement(
    select(steps.c.job_id, *columns_of(steps, Step))
    .where(steps.c.job_id == any_(bindparam("job_ids", type_=ARRAY(steps.c.job_id.type))))
    .order_by(steps.c.job_id, steps.c.position)
)


async def run_seconds(connection: AsyncConnection, job_id: UUID) -> float:
    """How long the last executions of a job's ended steps took, from GO on, together."""
    ran_s = seconds(steps.c.finished_at, steps.c.attempt_started_at)
    total = await connection.scalar(select(func.sum(ran_s)).where(steps.c.job_id == job_id))
    return 0.0 if total is None else float(total)


async def page(
    connection: AsyncConnection,
    *,
    user: str,
    status: Status | None = None,
    tags: Sequence[tuple[str, str]] = (),
    before: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[Job]:
    """Up to `limit` jobs, newest first, older than the job at `before` (created_at, id).

    Keyset paging: a page stays what it was while new jobs arrive at the other end. Of several tags
    the rarest one finds the jobs, and these are looked at for the others.
    """
    query = _jobs().where(jobs.c.user == user)
    moment, job_id = jobs.c.created_at, jobs.c.id
    if status is not None:
        query = query.where(jobs.c.status == status)
    if tags:
        (key, value), *others = await _rarest_first(connection, user, tags)
        moment, job_id = job_tags.c.created_at, job_tags.c.job_id
        query = query.join(job_tags, job_id == jobs.c.id).where(
            job_tags.c.user == user,
            job_tags.c.key == key,
            job_tags.c.value == value,
            *(jobs.c.tags.contains(dict([other])) for other in others),
        )
    if before is not None:
        query = query.where(tuple_(moment, job_id) < _bound(*before))
    rows = await connection.execute(query.order_by(moment.desc(), job_id.desc()).limit(limit))
    return [_job(row) for row in rows.mappings()]


def _bound(moment: datetime, job_id: UUID) -> Any:
    """Where a page begins. What is read as the earliest moment may be any before it, and a page
    that began there again would have no end."""
    if moment > EARLIEST:
        return tuple_(moment, job_id)
    return tuple_(literal_column("'-infinity'::timestamptz"), job_id)


async def _rarest_first(
    connection: AsyncConnection, user: str, tags: Sequence[tuple[str, str]]
) -> Sequence[tuple[str, str]]:
    """The tags, the one that the fewest jobs of this user have in front.

    Counting stops at `MAX_COUNTED` jobs of a tag.
    """
    if len(tags) == 1:
        return tags
    counts = []
    for key, value in tags:
        some = (
            select(job_tags.c.job_id)
            .where(job_tags.c.user == user, job_tags.c.key == key, job_tags.c.value == value)
            .order_by(job_tags.c.created_at, job_tags.c.job_id)
            .limit(MAX_COUNTED)
            .subquery()
        )
        counts.append(select(func.count()).select_from(some).scalar_subquery())
    row = (await connection.execute(select(*counts))).one()
    rarest = min(range(len(tags)), key=row.__getitem__)
    return [tags[rarest], *tags[:rarest], *tags[rarest + 1 :]]


async def lock(connection: AsyncConnection, job_id: UUID, *, user: str | None = None) -> str | None:
    """Take the job's row, the first lock of every writer; its status, None when it is not there."""
    if user is None:
        return await _LOCK.scalar(connection, job_id=job_id)
    return await _LOCK_OF_USER.scalar(connection, job_id=job_id, user=user)


_LOCKED = (
    select(jobs.c.status).where(jobs.c.id == bindparam("job_id")).with_for_update(key_share=True)
)
_LOCK = Statement(_LOCKED)
_LOCK_OF_USER = Statement(_LOCKED.where(jobs.c.user == bindparam("user")))


async def finish_job(
    connection: AsyncConnection,
    job_id: UUID,
    *,
    status: Status,
    reason: Reason,
    error: dict[str, Any] | None,
) -> bool:
    """Write the verdict, once: the row, then [`error`], `job.finish` and the last `progress`.

    Returns False, and changes nothing, when the job has a verdict already. The caller holds the
    job's row lock and has ended every step. Streams close after the `progress` written here.
    """
    if error is not None:
        error = error_of(error)
    finished = await _FINISH.first(
        connection, job_id=job_id, status=status, reason=reason, error=error
    )
    if finished is None:
        return False
    failed = status is Status.FAILED
    facts = [
        NewEvent(
            code=Code.JOB_FINISH,
            message=f"job {status}: {reason}",
            level="ERROR" if failed else "INFO",
            payload={"status": status, "reason": reason},
        ),
        NewEvent(
            code=Code.PROGRESS,
            message="progress at the end",
            payload=_final_progress(finished, status),
        ),
    ]
    if error is not None:
        message, level = error["message"] or str(reason), "ERROR" if failed else "WARNING"
        facts = [NewEvent(code=Code.ERROR, message=message, level=level, payload=error), *facts]
    await append_events(connection, job_id, facts)
    await count_job(connection, job_id, status)
    return True


_FINISH = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), text(one_of("jobs.status", _UNFINISHED)))
    .values(
        status=bindparam("status"),
        reason=bindparam("reason"),
        error=bindparam("error"),
        updated_at=func.clock_timestamp(),
        finished_at=func.clock_timestamp(),
    )
    .returning(jobs.c.count, _completed(), last_progress(jobs.c.id).label("sent"))
)


def _final_progress(finished: Any, status: Status) -> dict[str, Any]:
    """The closing payload; never lower than anything that was sent, 1.0 for a success."""
    before = progress_in(finished.sent)
    return {
        "progress": 1.0 if status is Status.SUCCEEDED else before,
        "stage": None,
        "item_index": None,
        "item_progress": None,
        "step": None,
        "steps": None,
        "count": finished.count,
        "completed": finished.completed,
    }


# What the API's bounds are compared with ----------------------------------------------------------
# The rows are the count, so the bounds hold across api processes and restarts without a table or a
# service of their own. Who is about to create holds the user's lock from looking to commit, or two
# at the same instant would both see the last free place.

# First half of the lock's key; the other is the user. Locks with two halves are a space apart.
_CREATING = 0x6466


async def lock_user(connection: AsyncConnection, user: str) -> None:
    """Make other creates of this user wait until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(_CREATING, func.hashtext(user))))


async def unfinished_jobs(connection: AsyncConnection, user: str, *, up_to: int) -> int:
    """Jobs of this user that wait or run. Counting stops at `up_to`."""
    count: int = (await connection.execute(unfinished_of(user, up_to))).scalar_one()
    return count


def unfinished_of(user: Any, up_to: Any) -> Select[Any]:
    """The query of `unfinished_jobs`; either argument may be a parameter of the statement."""
    some = (
        select(jobs.c.id)
        .where(jobs.c.user == user, text(one_of("jobs.status", _UNFINISHED)))
        .order_by(jobs.c.status, jobs.c.created_at, jobs.c.id)
        .limit(up_to)
        .subquery()
    )
    return select(func.count().label("unfinished")).select_from(some)


async def age_of_job(connection: AsyncConnection, user: str, *, newest: int) -> float | None:
    """Seconds since this user's job number `newest` (1: the last one) was created; None: fewer.

    A job that lies ahead is of a clock that was set back, and is as old as nobody knows.
    """
    age = func.extract("epoch", func.clock_timestamp() - jobs.c.created_at)
    found = await connection.execute(
        select(age)
        .where(jobs.c.user == user, jobs.c.created_at <= func.clock_timestamp())
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        .offset(newest - 1)
        .limit(1)
    )
    age_s = found.scalar()
    return None if age_s is None else float(age_s)


# Counting stops here: a scrape must not walk a million rows to say "very many". It is done in the
# order of an index: without an order PostgreSQL expects to meet so few soon enough in the table
# itself, where everything that has ended stands in front of them.
MAX_COUNTED = 1_000


async def queue_depth(connection: AsyncConnection) -> int:
    """Steps that could be claimed now or later, at most `MAX_COUNTED`."""
    waiting = (
        select(steps.c.id)
        .where(IS_QUEUED)
        .order_by(steps.c.run_at, steps.c.id)
        .limit(MAX_COUNTED)
        .subquery()
    )
    depth: int = (await connection.execute(select(func.count()).select_from(waiting))).scalar_one()
    return depth
