"""How many steps wait for a slot, for the queue depth metric."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import steps
from shared.states import StepState

# Counting stops here: a scrape must not walk a million rows to say "very many".
MAX_COUNTED = 10_000


async def queue_depth(connection: AsyncConnection) -> int:
    """Steps that could be claimed now or later, at most `MAX_COUNTED`."""
    waiting = (
        select(steps.c.id).where(steps.c.state == StepState.QUEUED).limit(MAX_COUNTED).subquery()
    )
    depth: int = (await connection.execute(select(func.count()).select_from(waiting))).scalar_one()
    return depth
