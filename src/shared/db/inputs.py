"""Inputs: pictures that users sent, one row for each user and content.

A row's age counts from `used_at`: its upload, the same upload again, or the newest job that named
it. What a step starts from is pinned on it (`steps.inputs`), so a step that has not ended keeps its
inputs, and retention counts from its end on (`shared.db.retention`).

A create looks for its pictures first and inserts its steps later, so a picture could be deleted in
between. The insert, or the transaction around it, locks the rows (`FOR KEY SHARE`), and who deletes
locks them before it looks for steps: whichever comes second finds what the first one did.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.tables import columns_of, read, values_of
from shared.errors import Conflict


@dataclass(frozen=True, kw_only=True, slots=True)
class NewInput:
    """A picture whose object is stored. Sides are pixels, with the orientation applied."""

    id: UUID
    user: str
    format: str
    width: int
    height: int
    orientation: int
    size_bytes: int
    sha256: str
    s3_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Input(NewInput):
    """A row of the table."""

    created_at: datetime
    used_at: datetime


_COLUMNS = columns_of(t.inputs, Input)


def object_key(user: str, sha256: str, id: UUID) -> str:
    """`dreamforge/{user}/inputs/{sha256}_{id}`.

    The id is there so that no two rows ever name one object: who deletes the object of a row that
    is gone must not delete that of a row that came after it.
    """
    return f"dreamforge/{user}/inputs/{sha256}_{id}"


async def touch_same(connection: AsyncConnection, *, user: str, sha256: str) -> Input | None:
    """This user's picture with these bytes, from now on used now; None when there is none."""
    rows = await connection.execute(
        update(t.inputs)
        .where(t.inputs.c.user == user, t.inputs.c.sha256 == sha256)
        .values(used_at=func.now())
        .returning(*_COLUMNS)
    )
    row = rows.first()
    return None if row is None else read(Input, row)


async def touch(
    connection: AsyncConnection, ids: Collection[UUID], *, user: str
) -> dict[UUID, Input]:
    """Those of these pictures that are this user's, by id, from now on used now."""
    rows = await connection.execute(
        update(t.inputs)
        .where(t.inputs.c.user == user, t.inputs.c.id.in_(ids))
        .values(used_at=func.now())
        .returning(*_COLUMNS)
    )
    return {row.id: read(Input, row) for row in rows}


async def keep(connection: AsyncConnection, ids: Collection[UUID]) -> frozenset[UUID]:
    """Those of these pictures that are there, and will be until the transaction ends."""
    rows = await connection.scalars(
        select(t.inputs.c.id)
        .where(t.inputs.c.id.in_(ids))
        .order_by(t.inputs.c.id)
        .with_for_update(read=True, key_share=True)
    )
    return frozenset(rows)


async def insert(connection: AsyncConnection, new: NewInput) -> Input:
    """The row of `new`, or the one with the same bytes that was there before."""
    rows = await connection.execute(
        upsert(t.inputs)
        .values(**values_of(t.inputs, new))
        .on_conflict_do_update(
            index_elements=[t.inputs.c.user, t.inputs.c.sha256], set_={"used_at": func.now()}
        )
        .returning(*_COLUMNS)
    )
    return read(Input, rows.one())


async def get(connection: AsyncConnection, id: UUID, *, user: str) -> Input | None:
    """A picture of this user."""
    rows = await connection.execute(
        select(*_COLUMNS).where(t.inputs.c.id == id, t.inputs.c.user == user)
    )
    row = rows.first()
    return None if row is None else read(Input, row)


async def delete_input(connection: AsyncConnection, id: UUID, *, user: str) -> Input | None:
    """Delete the row and return it, for its object; None where this user has no such picture.

    Raises `Conflict` while a step that has not ended starts from it.
    """
    own = (t.inputs.c.id == id) & (t.inputs.c.user == user)
    # The lock comes first: a create that keeps the picture has committed its step by then.
    await connection.execute(select(t.inputs.c.id).where(own).with_for_update())
    rows = await connection.execute(
        delete(t.inputs).where(own, ~named_by_a_step(None)).returning(*_COLUMNS)
    )
    row = rows.first()
    if row is None and await get(connection, id, user=user) is not None:
        raise Conflict(
            "a job that has not ended starts from this picture; wait for it, or cancel it",
            input_id=str(id),
        )
    return None if row is None else read(Input, row)


async def delete_copies(connection: AsyncConnection, job_id: UUID, *, user: str) -> list[str]:
    """Delete the inputs with the bytes of the job's pictures, and return their objects' keys.

    A job that starts from a picture of another one gets a copy (`api.admission.pictures`), which
    says all that the picture says. What a step that has not ended starts from stays.
    """
    made = select(t.artifacts.c.sha256).where(t.artifacts.c.job_id == job_id)
    copies = (t.inputs.c.user == user) & t.inputs.c.sha256.in_(made)
    # As above: the statement that deletes begins when no create holds one of them.
    await connection.execute(
        select(t.inputs.c.id).where(copies).order_by(t.inputs.c.id).with_for_update()
    )
    keys = await connection.scalars(
        delete(t.inputs).where(copies, ~named_by_a_step(None)).returning(t.inputs.c.s3_key)
    )
    return list(keys)


def named_by_a_step(age_s: float | None) -> ColumnElement[bool]:
    """A condition of a row of `inputs`: a step names it that has not ended, or not so long ago."""
    name = func.jsonb_build_array(func.jsonb_build_object("id", t.inputs.c.id))
    lives: ColumnElement[bool] = t.steps.c.finished_at.is_(None)
    if age_s is not None:
        lives = lives | (t.steps.c.finished_at > func.now() - timedelta(seconds=age_s))
    return exists().where(
        t.steps.c.inputs.is_not(None), t.steps.c.inputs.op("@>")(sql_cast(name, JSONB)), lives
    )
