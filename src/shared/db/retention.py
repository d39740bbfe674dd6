"""Rows past their age, in batches. Only those of jobs that ended: a live job keeps everything.

Age counts from the end of the job, by PostgreSQL's clock, so a long batch loses no picture while it
still runs. A terminal job's `updated_at` is the moment of its verdict and is indexed with the
status, which is what finds the old ones.

Each function deletes one batch in one transaction and skips rows that are locked. It does no harm
when it runs twice, or in two processes at once.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Date,
    Delete,
    Select,
    Table,
    cast,
    delete,
    exists,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.inputs import named_by_a_step
from shared.db.tables import (
    artifacts,
    deliveries,
    events,
    inputs,
    jobs,
    tag_usage,
    usage,
    workers,
)
from shared.states import ENDED, DeliveryState

# Any fixed number: it names "Dream Forge prunes" among the advisory locks of this database.
ADVISORY_LOCK = 0x44465052
# [`error`], `job.finish`, `progress`: what a stream and the progress page still show of a job
# whose events are gone. They stay until the job goes.
VERDICT_EVENTS = 3
# Whose events are looked at in one batch.
JOBS_AT_ONCE = 500
# A worker that was killed cannot delete its row. It counts as gone after `workers.LIVE_S`; the row
# stays a day, so that an operator sees in the morning what ran in the night.
DEAD_WORKER_S = 24 * 3600.0


def _ended(age_s: float) -> ColumnElement[bool]:
    limit = func.now() - timedelta(seconds=age_s)
    return jobs.c.status.in_(sorted(ENDED)) & (jobs.c.updated_at < limit)


def _dead_worker() -> ColumnElement[bool]:
    limit = func.clock_timestamp() - timedelta(seconds=DEAD_WORKER_S)
    return (workers.c.heartbeat_at < limit) | ~func.isfinite(workers.c.heartbeat_at)


def _old_event(age_s: float) -> ColumnElement[bool]:
    return _ended(age_s) & (events.c.seq <= jobs.c.event_seq - VERDICT_EVENTS)


def _older_than(moment: ColumnElement[Any], age_s: float) -> ColumnElement[bool]:
    """What belongs to a job is older than its end. Only with this does an index find the old ones,
    however many jobs have ended and are pruned."""
    return moment < func.now() - timedelta(seconds=age_s)


def _old_input(age_s: float) -> ColumnElement[bool]:
    limit = func.now() - timedelta(seconds=age_s)
    return (inputs.c.used_at < limit) & ~named_by_a_step(age_s)


def _old_delivery(age_s: float) -> ColumnElement[bool]:
    ended = [state for state in DeliveryState if state is not DeliveryState.WAITING]
    moment = deliveries.c.created_at
    return deliveries.c.state.in_(ended) & _older_than(moment, age_s) & _ended(age_s)


def _old_usage(table: Table, age_s: float) -> ColumnElement[bool]:
    limit = func.timezone("UTC", func.now() - timedelta(seconds=age_s))
    return table.c.day < cast(limit, Date)


def _delete(table: Table, batch: Select[Any], *key: ColumnElement[Any]) -> Delete:
    """Delete the rows whose key `batch` selects and locks.

    The batch is a CTE, which PostgreSQL runs once. As a subquery of `IN` a plan may run it once for
    each row of the table; every run skips what the runs before deleted, so the limit means nothing.
    """
    locked = batch.cte("batch")
    return delete(table).where(tuple_(*key).in_(select(locked)))


async def due(
    connection: AsyncConnection,
    *,
    artifacts_s: float,
    inputs_s: float,
    events_s: float,
    jobs_s: float,
    usage_s: float,
) -> dict[str, int]:
    """How many rows of each table a pass would delete now. Events that go with their job are
    counted with it."""
    aged = {
        "artifacts": (artifacts.join(jobs), _ended(artifacts_s)),
        "inputs": (inputs, _old_input(inputs_s)),
        "deliveries": (deliveries.join(jobs), _old_delivery(events_s)),
        "events": (events.join(jobs), _old_event(events_s)),
        "jobs": (jobs, _ended(jobs_s)),
        "usage": (usage, _old_usage(usage, usage_s)),
        "tag_usage": (tag_usage, _old_usage(tag_usage, usage_s)),
        "workers": (workers, _dead_worker()),
    }
    counts = [
        select(func.count()).select_from(rows).where(condition).scalar_subquery().label(name)
        for name, (rows, condition) in aged.items()
    ]
    found = dict((await connection.execute(select(*counts))).mappings().one())
    return found | {"usage": found["usage"] + found.pop("tag_usage")}


async def delete_artifacts(connection: AsyncConnection, *, age_s: float, limit: int) -> list[str]:
    """Delete a batch; return the keys of objects that no row names any more."""
    batch = (
        select(artifacts.c.id)
        .join(jobs, jobs.c.id == artifacts.c.job_id)
        .where(_older_than(artifacts.c.created_at, age_s), _ended(age_s))
        .order_by(artifacts.c.created_at)
        .limit(limit)
        .with_for_update(of=artifacts, skip_locked=True)
    )
    keys = await connection.scalars(
        _delete(artifacts, batch, artifacts.c.id).returning(artifacts.c.s3_key)
    )
    return list(keys)


async def delete_inputs(connection: AsyncConnection, *, age_s: float, limit: int) -> list[str]:
    """Delete a batch; return the keys of objects that no row names any more."""
    batch = (
        select(inputs.c.id)
        .where(_old_input(age_s))
        .order_by(inputs.c.used_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = await connection.scalars(_delete(inputs, batch, inputs.c.id).returning(inputs.c.s3_key))
    return list(keys)


async def delete_events(connection: AsyncConnection, *, age_s: float, limit: int) -> int:
    """Delete a batch, all but the verdict of each job; return how many.

    A job's first event is the last to go: by it the next batch finds the job again.
    """
    first = events.alias("first")
    old = (
        select(jobs.c.id, jobs.c.event_seq)
        .join(first, first.c.job_id == jobs.c.id)
        .where(
            first.c.seq == literal_column("1"),
            _older_than(first.c.ts, age_s),
            _ended(age_s),
            jobs.c.event_seq > VERDICT_EVENTS,
        )
        .order_by(first.c.ts)
        .limit(JOBS_AT_ONCE)
        .cte("old")
    )
    batch = (
        select(events.c.job_id, events.c.seq)
        .join(old, old.c.id == events.c.job_id)
        .where(events.c.seq <= old.c.event_seq - VERDICT_EVENTS)
        .order_by(events.c.job_id, events.c.seq.desc())
        .limit(limit)
        .with_for_update(of=events, skip_locked=True)
    )
    done = await connection.execute(_delete(events, batch, events.c.job_id, events.c.seq))
    return done.rowcount


async def delete_deliveries(connection: AsyncConnection, *, age_s: float, limit: int) -> int:
    """Delete a batch of webhooks that were delivered or given up; return how many."""
    batch = (
        select(deliveries.c.job_id, deliveries.c.seq)
        .join(jobs)
        .where(_old_delivery(age_s))
        .order_by(deliveries.c.created_at)
        .limit(limit)
        .with_for_update(of=deliveries, skip_locked=True)
    )
    done = await connection.execute(
        _delete(deliveries, batch, deliveries.c.job_id, deliveries.c.seq)
    )
    return done.rowcount


async def delete_jobs(connection: AsyncConnection, *, age_s: float, limit: int) -> int:
    """Delete a batch of jobs with their steps and events; return how many.

    A job that has artifacts stays: without its rows the keys of its objects would be lost.
    """
    batch = (
        select(jobs.c.id)
        .where(_ended(age_s), ~exists().where(artifacts.c.job_id == jobs.c.id))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    done = await connection.execute(_delete(jobs, batch, jobs.c.id))
    return done.rowcount


async def delete_usage(connection: AsyncConnection, *, age_s: float) -> int:
    """Delete rows of old days; return how many. A few for each day: no batches are needed."""
    count = 0
    for table in (usage, tag_usage):
        done = await connection.execute(delete(table).where(_old_usage(table, age_s)))
        count += done.rowcount
    return count


async def delete_workers(connection: AsyncConnection) -> int:
    """Delete the rows of workers that were killed; return how many.

    A worker that lives, and could not reach PostgreSQL for a day, writes its row anew.
    """
    done = await connection.execute(delete(workers).where(_dead_worker()))
    return done.rowcount


async def named(connection: AsyncConnection, keys: Sequence[str]) -> set[str]:
    """Those of these keys that a row names."""
    tables = (artifacts, inputs)
    queries = [select(each.c.s3_key).where(each.c.s3_key.in_(keys)) for each in tables]
    return set(await connection.scalars(union_all(*queries)))
