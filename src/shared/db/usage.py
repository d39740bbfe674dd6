"""What each user used, by day (UTC) and model.

Each amount is written in the transaction that writes the fact behind it: an execution's end, a
waiting step's end, a job's end. So a commit that is repeated, a rescuer, or a kill in between
counts nothing twice and leaves nothing out. The rows outlive the jobs (docs/retention.md).

* `wait_seconds`: from the moment a step could be claimed until it was, or until it ended without
  one. The pause before another try counts.
* `run_seconds`: from GO to the end of the execution, for each of them. Of an execution whose worker
  was lost, to the end of its lease: its runner cannot have lived longer.
* `device_byte_seconds`: the memory that was reserved for the step, for its `run_seconds`.
* `pictures`: what the ended step stored. A chain counts under the model of each of its steps.
* Jobs count under the model of their first step, the one that the request named.

The same statement adds the same amounts to `tag_usage`, once for each tag of the job that the
installation counts by (`job_tags.in_usage`, decided at the create). A user writes the values of
tags, and could make a row with each job: beyond `MAX_VALUES` of a key on a day further values count
together under the empty one (docs/adr/0032).

A row is locked from its update to the commit, so these statements come last in their transactions.
The rows of several tags are locked in the order of their keys.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Date,
    DateTime,
    Float,
    Integer,
    Select,
    Table,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.statement import Statement
from shared.db.stored_values import known
from shared.db.tables import read
from shared.states import ENDED, Status, StepState

NO_MODEL = ""
# Of one key, for one user on one day; two creates at one instant may both be the last one.
MAX_VALUES = 1000
OTHER_VALUES = ""
_TODAY = cast(func.timezone("UTC", func.now()), Date)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one user used of one model on one day. `model` is name@version, or `NO_MODEL`.

    With `tag_key`: in jobs with this tag. `tag_value` is `OTHER_VALUES` for those without a sum of
    their own, too.
    """

    day: date
    user: str
    model: str
    jobs_succeeded: int
    jobs_failed: int
    jobs_cancelled: int
    pictures: int
    run_seconds: float
    device_byte_seconds: float
    wait_seconds: float
    tag_key: str | None = None
    tag_value: str | None = None


async def charge_execution(
    connection: AsyncConnection, step: Any, *, ended: bool, delay_s: float = 0.0
) -> None:
    """Add what a step used since it last could be claimed. `step` is its row from before the end.

    `ended` says that it was its last execution; otherwise it may be claimed again after `delay_s`.
    """
    await (_CHARGE_LAST if ended else _CHARGE).run(
        connection,
        job_id=step.job_id,
        model_id=step.model_id,
        step_id=step.id,
        is_queued=step.state == StepState.QUEUED,
        due_at=known(step.run_at),
        claimed_at=known(step.claimed_at),
        started_at=known(step.attempt_started_at),
        lease_expires_at=known(step.lease_expires_at),
        delay_s=delay_s,
        reserved_bytes=float(step.vram_bytes),
        max_values=MAX_VALUES,
    )


async def count_job(connection: AsyncConnection, job_id: UUID, status: Status) -> None:
    """Count a job that has just ended with this status."""
    await _COUNT[status].run(connection, job_id=job_id, max_values=MAX_VALUES)


# The statements -----------------------------------------------------------------------------------


def _moment(name: str) -> ColumnElement[datetime]:
    return bindparam(name, type_=DateTime(timezone=True))


def _seconds(until: ColumnElement[Any], since: ColumnElement[Any]) -> ColumnElement[float]:
    """Never negative: the moment from which a step may be claimed can lie ahead. 0 where a moment
    is not known."""
    return func.greatest(cast(func.extract("epoch", until - since), Float), 0.0, type_=Float)


def _amounts() -> dict[str, ColumnElement[Any]]:
    waited_until = case(
        (bindparam("is_queued", type_=Boolean), func.now()), else_=_moment("claimed_at")
    )
    run_s = _seconds(func.least(func.now(), _moment("lease_expires_at")), _moment("started_at"))
    return {
        "wait_seconds": _seconds(waited_until, _moment("due_at"))
        + bindparam("delay_s", type_=Float),
        "run_seconds": run_s,
        "device_byte_seconds": run_s * bindparam("reserved_bytes", type_=Float),
    }


def _adding(model_id: Any, amounts: dict[str, ColumnElement[Any]]) -> Statement:
    """Add the amounts to the sums of a job's user, and to those of its tags."""
    job_id = bindparam("job_id", type_=t.jobs.c.id.type)
    label = t.models.c.name + "@" + t.models.c.version
    used = (
        select(
            _TODAY.label("day"),
            t.jobs.c.user,
            func.coalesce(label, NO_MODEL).label("model"),
            *(value.label(name) for name, value in amounts.items()),
        )
        .select_from(t.jobs.outerjoin(t.models, t.models.c.id == model_id))
        .where(t.jobs.c.id == job_id)
        .cte("used")
    )
    all_of_it = _upsert(t.usage, select(used), list(amounts))
    by_tag = _upsert(t.tag_usage, _with_tags(used, job_id), list(amounts))
    return Statement(by_tag.add_cte(all_of_it.cte("all_of_it")))


def _upsert(table: Table, rows: Select[Any], amounts: list[str]) -> Insert:
    """Add the amounts of `rows`, whose columns have the names of the table's."""
    new = insert(table).from_select(rows.selected_columns.keys(), rows)
    return new.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: table.c[name] + new.excluded[name] for name in amounts},
    )


def _with_tags(used: CTE, job_id: ColumnElement[UUID]) -> Select[Any]:
    """`used`, once for each tag of the job by which usage is counted."""
    tag, most = t.job_tags, bindparam("max_values", type_=Integer)
    of_the_key = (
        (t.tag_usage.c.day == used.c.day)
        & (t.tag_usage.c.user == used.c.user)
        & (t.tag_usage.c.tag_key == tag.c.key)
    )
    is_known = exists().where(of_the_key, t.tag_usage.c.tag_value == tag.c.value)
    values = (
        select(t.tag_usage.c.tag_value)
        .where(of_the_key)
        .distinct()
        .limit(most)
        .correlate(used, tag)
        .subquery()
    )
    count = select(func.count()).select_from(values).scalar_subquery()
    value = case((is_known, tag.c.value), (count < most, tag.c.value), else_=literal(OTHER_VALUES))
    return (
        select(used, tag.c.key.label("tag_key"), value.label("tag_value"))
        .join(tag, tag.c.job_id == job_id)
        .where(tag.c.in_usage)
        .order_by(tag.c.key)
    )


def _charging(*, last: bool) -> Statement:
    amounts = _amounts()
    if last:
        made = select(func.count()).where(t.artifacts.c.step_id == bindparam("step_id"))
        amounts["pictures"] = made.scalar_subquery()
    return _adding(bindparam("model_id", type_=t.models.c.id.type), amounts)


def _counting(status: Status) -> Statement:
    job_id = bindparam("job_id", type_=t.jobs.c.id.type)
    first = select(t.steps.c.model_id).where(t.steps.c.job_id == job_id, t.steps.c.position == 0)
    return _adding(first.scalar_subquery(), {f"jobs_{status}": literal_column("1")})


_CHARGE = _charging(last=False)
_CHARGE_LAST = _charging(last=True)
_COUNT = {status: _counting(status) for status in ENDED}


# Reading ------------------------------------------------------------------------------------------


async def page(
    connection: AsyncConnection,
    *,
    since: date,
    until: date,
    user: str | None = None,
    model: str | None = None,
    tag: tuple[str, str | None] | None = None,
    after: tuple[date, str, str, str] | None = None,
    limit: int,
) -> list[Usage]:
    """Up to `limit` rows of the days from `since` to `until`, both included, oldest day first.

    `user` None: of all users. `model` is name@version, or a name, which means all its versions.
    `tag` asks for the sums of this key, by its values or of one of them.
    `after` is (day, user, value of the tag, model) of the last row of the page before.
    """
    table = t.usage if tag is None else t.tag_usage
    query = select(*t.columns_of(table, Usage)).where(table.c.day.between(since, until))
    if user is not None:
        query = query.where(table.c.user == user)
    if model is not None:
        named = func.split_part(table.c.model, "@", 1) == model
        query = query.where(table.c.model == model if "@" in model else named)
    value: ColumnElement[str] = literal("")
    if tag is not None:
        value = table.c.tag_value
        query = query.where(table.c.tag_key == tag[0])
        if tag[1] is not None:
            query = query.where(value == tag[1])
    key = (table.c.day, table.c.user, value, table.c.model)
    if after is not None:
        query = query.where(tuple_(*key) > after)
    rows = await connection.execute(query.order_by(*key).limit(limit))
    return [read(Usage, row) for row in rows]
