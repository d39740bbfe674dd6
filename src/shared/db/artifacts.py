"""Artifacts: one row per finished item of a step, at most once."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.statement import Statement
from shared.db.tables import artifacts, columns_of, jobs, steps
from shared.step_store import StoredArtifact


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact(StoredArtifact):
    """An object of the store, and the step that made it."""

    id: UUID
    job_id: UUID
    step_id: UUID
    step: str
    created_at: datetime


_COLUMNS = columns_of(artifacts, Artifact)


async def insert_artifact(
    connection: AsyncConnection,
    *,
    job_id: UUID,
    step_id: UUID,
    step: str,
    artifact: StoredArtifact,
) -> bool:
    """Record an artifact; False when this item has one. The loser deletes its own object."""
    inserted = await _INSERT.run(
        connection, id=uuid4(), job_id=job_id, step_id=step_id, step=step, **asdict(artifact)
    )
    return inserted == 1


_INSERT = Statement(
    insert(artifacts)
    .values(
        {
            each: bindparam(each.name, type_=each.type)
            for each in _COLUMNS
            if each.name != "created_at"
        }
    )
    .on_conflict_do_nothing(
        index_elements=[artifacts.c.job_id, artifacts.c.step_id, artifacts.c.item_index]
    )
)


async def list_artifacts(connection: AsyncConnection, job_id: UUID) -> list[Artifact]:
    """A job's artifacts by step and item."""
    rows = await connection.execute(
        select(*_COLUMNS)
        .join(steps, steps.c.id == artifacts.c.step_id)
        .where(artifacts.c.job_id == job_id)
        .order_by(steps.c.position, artifacts.c.item_index)
    )
    return [Artifact(**row) for row in rows.mappings()]


async def of_user(
    connection: AsyncConnection, ids: Collection[UUID], *, user: str
) -> list[Artifact]:
    """Those of these artifacts that a job of this user made."""
    rows = await connection.execute(
        select(*_COLUMNS)
        .join(jobs, jobs.c.id == artifacts.c.job_id)
        .where(artifacts.c.id.in_(ids), jobs.c.user == user)
    )
    return [Artifact(**row) for row in rows.mappings()]


async def finished_items(connection: AsyncConnection, job_id: UUID) -> dict[UUID, set[int]]:
    """Which items of which steps have an artifact."""
    rows = await connection.execute(
        select(artifacts.c.step_id, func.array_agg(artifacts.c.item_index).label("items"))
        .where(artifacts.c.job_id == job_id)
        .group_by(artifacts.c.step_id)
    )
    return {row.step_id: set(row.items) for row in rows}
