"""How far each unfinished item of a job has been, over all attempts."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Float, Integer, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import events
from shared.events import Code


async def best_item_progress(
    connection: AsyncConnection, job_id: UUID
) -> dict[tuple[UUID, int], float]:
    """(step id, item) -> the highest progress that was ever reported of it, 0..1.

    The highest and not the last: a second attempt begins its item anew, and what a client has
    seen must not go back. An item that was written is whole, though its picture may be gone by now.
    """
    named = cast(events.c.payload["item_index"].astext, Integer)
    item = func.coalesce(events.c.item_index, named)
    reported = cast(events.c.payload["item_progress"].astext, Float)
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
