"""Events: appended under their job's row lock, so `seq` is gap-free and in commit order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Numeric,
    ScalarSelect,
    Select,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import deliveries
from shared.db.engine import note_events
from shared.db.statement import Statement
from shared.db.stored_json import webhook_of
from shared.db.tables import columns_of, events, jobs, read
from shared.events import Code, NewEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A recorded fact."""

    job_id: UUID
    seq: int
    ts: datetime
    level: str
    code: str
    message: str
    step_id: UUID | None
    item_index: int | None
    payload: dict[str, Any] | None


async def append_events(connection: AsyncConnection, job_id: UUID, new: Sequence[NewEvent]) -> int:
    """Record events, and what the job's receiver is to get of them; return the last `seq`.

    Takes the job's row lock until commit.

    The counter lives in an unindexed column, so its update stays HOT; do not touch an indexed
    column of the job in the same statement.
    """
    counted = await _APPEND.one(
        connection,
        job_id=job_id,
        step_ids=[event.step_id for event in new],
        item_indices=[event.item_index for event in new],
        levels=[event.level for event in new],
        codes=[event.code for event in new],
        messages=[event.message for event in new],
        payloads=[event.payload for event in new],
    )
    last: int = counted.event_seq
    if new:
        note_events(connection, job_id)
        if (webhook := webhook_of(job_id, counted.webhook)) is not None:
            recorded = list(enumerate(new, last - len(new) + 1))
            await deliveries.enqueue(connection, job_id, webhook, recorded)
    return last


def _append() -> Select[Any]:
    """Count the events, then insert them, in one statement; their values are arrays."""
    job_id = bindparam("job_id", type_=Uuid)
    values = {
        events.c.step_id: "step_ids",
        events.c.item_index: "item_indices",
        events.c.level: "levels",
        events.c.code: "codes",
        events.c.message: "messages",
        events.c.payload: "payloads",
    }
    arrays = {each: bindparam(name, type_=ARRAY(each.type)) for each, name in values.items()}
    new = (
        func.unnest(*arrays.values())
        .table_valued(*(column(each.name, each.type) for each in arrays), with_ordinality="place")
        .render_derived(name="new")
    )
    count = func.cardinality(arrays[events.c.code])
    counted = (
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(event_seq=jobs.c.event_seq + count)
        .returning(jobs.c.event_seq, jobs.c.webhook)
        .cte("counted")
    )
    rows = select(
        job_id, counted.c.event_seq - count + new.c.place, *(new.c[each.name] for each in arrays)
    ).select_from(counted.join(new, true()))
    inserted = insert(events).from_select([events.c.job_id, events.c.seq, *arrays], rows)
    return select(counted.c.event_seq, counted.c.webhook).add_cte(inserted.cte("inserted"))


_APPEND = Statement(_append())
_COLUMNS = columns_of(events, Event)


def _matching(
    job_id: UUID, since: datetime | None, levels: Sequence[str] | None
) -> ColumnElement[bool]:
    condition = events.c.job_id == job_id
    if since is not None:
        condition &= events.c.ts >= since
    if levels is not None:
        condition &= events.c.level.in_(levels)
    return condition


async def page(
    connection: AsyncConnection,
    job_id: UUID,
    *,
    after: int = 0,
    since: datetime | None = None,
    levels: Sequence[str] | None = None,
    limit: int,
) -> list[Event]:
    """One page of a job's events past `after`, ascending."""
    query = select(*_COLUMNS).where(_matching(job_id, since, levels), events.c.seq > after)
    rows = await connection.execute(query.order_by(events.c.seq).limit(limit))
    return [Event(**row) for row in rows.mappings()]


async def tail(
    connection: AsyncConnection,
    job_id: UUID,
    *,
    count: int,
    since: datetime | None = None,
    levels: Sequence[str] | None = None,
) -> int:
    """The cursor after which exactly the last `count` matching events follow."""
    query = select(events.c.seq).where(_matching(job_id, since, levels))
    last = query.order_by(events.c.seq.desc()).limit(count).subquery()
    first = await connection.scalar(select(func.min(last.c.seq)))
    return 0 if first is None else int(first) - 1


async def last_event(connection: AsyncConnection, job_id: UUID, code: str) -> Event | None:
    """The newest event of a job with this code."""
    rows = await connection.execute(
        select(*_COLUMNS)
        .where(events.c.job_id == job_id, events.c.code == code)
        .order_by(events.c.seq.desc())
        .limit(1)
    )
    row = rows.mappings().first()
    return None if row is None else Event(**row)


def last_progress(job_id: ColumnElement[UUID]) -> ScalarSelect[Any]:
    """What clients were shown last of a job, for a statement that reads the job; or null."""
    return (
        select(events.c.payload)
        .where(events.c.job_id == job_id, events.c.code == Code.PROGRESS)
        .order_by(events.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )


# Two arrays and not a list of rows: the text is the same for one watched job and for a thousand.
_WATCHED = (
    func.unnest(
        bindparam("job_ids", type_=ARRAY(Uuid)), bindparam("cursors", type_=ARRAY(BigInteger))
    )
    .table_valued(column("job_id", Uuid), column("cursor", BigInteger), name="watched")
    .render_derived()
)
_PAGE = (
    select(*_COLUMNS)
    .where(events.c.job_id == _WATCHED.c.job_id, events.c.seq > _WATCHED.c.cursor)
    .order_by(events.c.seq)
    .limit(bindparam("page_rows"))
    .lateral("page")
)
_AFTER = Statement(
    select(*_PAGE.c).select_from(_WATCHED.join(_PAGE, true())).order_by(_PAGE.c.job_id, _PAGE.c.seq)
)


async def events_after(
    connection: AsyncConnection, cursors: Mapping[UUID, int], *, limit: int
) -> list[Event]:
    """Events past each job's cursor, ordered by job and `seq`; at most `limit` of each job.

    The bound is per job, so that one chatty job cannot starve the others.
    """
    if not cursors:
        return []
    rows = await _AFTER.all(
        connection, job_ids=list(cursors), cursors=list(cursors.values()), page_rows=limit
    )
    return [read(Event, row) for row in rows]


async def best_item_progress(
    connection: AsyncConnection, job_id: UUID
) -> dict[tuple[UUID, int], float]:
    """(step id, item) -> the highest progress that was ever reported of it, 0..1.

    The highest and not the last: a second attempt begins its item anew, and what a client has
    seen must not go back. An item that was written is whole, though its picture may be gone by now.
    """
    named = _number_in(events.c.payload["item_index"], 0, 2**31 - 1)
    item = func.coalesce(events.c.item_index, cast(func.trunc(named), Integer))
    reported = cast(_number_in(events.c.payload["item_progress"], 0, 1), Float)
    reached = case((events.c.code == Code.ARTIFACT_WRITTEN, 1.0), else_=reported)
    rows = await connection.execute(
        select(events.c.step_id, item.label("item"), func.max(reached).label("reached"))
        .where(
            events.c.job_id == job_id,
            events.c.code.in_((Code.PROGRESS, Code.ARTIFACT_WRITTEN)),
            events.c.step_id.is_not(None),
            item.is_not(None),
            reached.is_not(None),
        )
        .group_by(events.c.step_id, item)
    )
    return {(row.step_id, row.item): float(row.reached) for row in rows}


def _number_in(value: ColumnElement[Any], least: int, most: int) -> ColumnElement[Any]:
    """A number within these bounds, with nine digits; null where something else stands.

    JSON's numbers may be larger, or closer to 0, than other types hold, and a cast that fails takes
    the whole answer with it.
    """
    number = func.least(func.greatest(cast(value.astext, Numeric), least), most)
    return case((func.jsonb_typeof(value) == "number", func.round(number, 9)))
