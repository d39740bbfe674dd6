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

A row is locked from its update to the commit, so these statements come last in their transactions.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Date,
    DateTime,
    Float,
    Row,
    cast,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.tables import read
from shared.states import Status, StepState

NO_MODEL = ""
_TODAY = cast(func.timezone("UTC", func.now()), Date)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one user used of one model on one day. `model` is name@version, or `NO_MODEL`."""

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


async def charge_execution(
    connection: AsyncConnection, step: Row[Any], *, ended: bool, delay_s: float = 0.0
) -> None:
    """Add what a step used since it last could be claimed. `step` is its row from before the end.

    `ended` says that it was its last execution; otherwise it may be claimed again after `delay_s`.
    """
    wait_s: ColumnElement[float] = literal(0.0)
    run_s: ColumnElement[float] = literal(0.0)
    if step.state == StepState.QUEUED:
        wait_s = _seconds(func.now(), step.run_at)
    elif step.claimed_at is not None:
        wait_s = _seconds(_moment(step.claimed_at), step.run_at)
    if step.attempt_started_at is not None:
        ended_at = func.least(func.now(), _moment(step.lease_expires_at))
        run_s = _seconds(ended_at, step.attempt_started_at)
    amounts: dict[str, ColumnElement[Any]] = {
        "wait_seconds": wait_s + delay_s,
        "run_seconds": run_s,
        "device_byte_seconds": run_s * float(step.vram_bytes),
    }
    if ended:
        made = select(func.count()).where(t.artifacts.c.step_id == step.id)
        amounts["pictures"] = made.scalar_subquery()
    await _add(connection, step.job_id, step.model_id, amounts)


async def count_job(connection: AsyncConnection, job_id: UUID, status: Status) -> None:
    """Count a job that has just ended with this status."""
    first = select(t.steps.c.model_id).where(t.steps.c.job_id == job_id, t.steps.c.position == 0)
    await _add(connection, job_id, first.scalar_subquery(), {f"jobs_{status}": literal(1)})


def _moment(value: datetime) -> ColumnElement[datetime]:
    return literal(value, DateTime(timezone=True))


def _seconds(until: ColumnElement[Any], since: datetime) -> ColumnElement[float]:
    """Never negative: the moment from which a step may be claimed can lie ahead."""
    return cast(func.greatest(func.extract("epoch", until - _moment(since)), 0), Float)


async def _add(
    connection: AsyncConnection, job_id: UUID, model_id: Any, amounts: dict[str, ColumnElement[Any]]
) -> None:
    names = ["day", "user", "model", *amounts]
    label = t.models.c.name + "@" + t.models.c.version
    row = (
        select(_TODAY, t.jobs.c.user, func.coalesce(label, NO_MODEL), *amounts.values())
        .select_from(t.jobs.outerjoin(t.models, t.models.c.id == model_id))
        .where(t.jobs.c.id == job_id)
    )
    new = insert(t.usage).from_select(names, row)
    await connection.execute(
        new.on_conflict_do_update(
            index_elements=[t.usage.c.day, t.usage.c.user, t.usage.c.model],
            set_={name: t.usage.c[name] + new.excluded[name] for name in amounts},
        )
    )


async def page(
    connection: AsyncConnection,
    *,
    since: date,
    until: date,
    user: str | None = None,
    model: str | None = None,
    after: tuple[date, str, str] | None = None,
    limit: int,
) -> list[Usage]:
    """Up to `limit` rows of the days from `since` to `until`, both included, oldest day first.

    `user` None: of all users. `model` is name@version, or a name, which means all its versions.
    `after` is (day, user, model) of the last row of the page before.
    """
    query = select(*t.columns_of(t.usage, Usage)).where(t.usage.c.day.between(since, until))
    if user is not None:
        query = query.where(t.usage.c.user == user)
    if model is not None:
        named = func.split_part(t.usage.c.model, "@", 1) == model
        query = query.where(t.usage.c.model == model if "@" in model else named)
    key = (t.usage.c.day, t.usage.c.user, t.usage.c.model)
    if after is not None:
        query = query.where(tuple_(*key) > after)
    rows = await connection.execute(query.order_by(*key).limit(limit))
    return [read(Usage, row) for row in rows]
