"""What is new in many watched jobs, in one statement of constant size."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import BigInteger, Uuid, bindparam, column, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.events import Event
from shared.db.tables import events

_COLUMNS = [column for column in events.c if column.name != "schema_version"]
# Two arrays and not a list of rows: the text of the statement is the same for one watched job and
# for a thousand, so it is compiled once and PostgreSQL knows it.
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
_AFTER = (
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
    rows = await connection.execute(
        _AFTER,
        {
            "job_ids": list(cursors),
            "cursors": list(cursors.values()),
            "page_rows": limit,
        },
    )
    return [Event(**row) for row in rows.mappings()]
