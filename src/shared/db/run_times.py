"""How long steps of a kind took lately: what `api.waiting` estimates from.

A kind is a type, a checkpoint and a preset. Of each kind the newest `KEPT` successes count, so the
table has a few dozen rows whatever the number of jobs, and follows a change of hardware by itself.
It is written in the transaction that ends the step.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.statement import Statement
from shared.db.tables import columns_of, read, run_times

KEPT = 64
# What the time of a step grows with. A picture that is enlarged has no size of its own here.
# The bounds keep the product finite. What is no number counts as 1: a cast of it would fail, and
# with it the whole line of those that wait.
WORK = " * ".join(
    f"CASE jsonb_typeof(s.params -> '{name}') WHEN 'number' "
    f"THEN greatest(least((s.params ->> '{name}')::numeric, 1e9), 1)::float ELSE 1 END"
    for name in ("width", "height", "steps", "count")
)
KIND = (
    "s.type, coalesce(s.checkpoint_sha256, '') AS checkpoint_sha256, "
    "coalesce(s.preset ->> 'name', '') || '@' || coalesce(s.preset ->> 'version', '') AS preset"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Steps whose times can be compared."""

    type: str
    checkpoint_sha256: str  # empty: no model
    preset: str  # name@version


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTimes:
    """Samples of one kind, newest first; the three belong together.

    `work` is pixels times sampling steps times items; `start_seconds` go from claim to GO,
    `seconds` from claim to the end: for so long the step held its slot.
    """

    work: list[float]
    start_seconds: list[float]
    seconds: list[float]


_RECORD = Statement(
    text(f"""
    INSERT INTO run_times (type, checkpoint_sha256, preset, work, start_seconds, seconds)
    SELECT {KIND}, ARRAY[{WORK}],
        ARRAY[extract(epoch FROM s.attempt_started_at - s.claimed_at)::float],
        ARRAY[extract(epoch FROM now() - s.claimed_at)::float]
    FROM steps AS s
    WHERE s.id = :step_id AND s.claimed_at <= s.attempt_started_at
        AND s.claimed_at > now() - interval '1 year' AND s.attempt_started_at <= now()
    ON CONFLICT (type, checkpoint_sha256, preset) DO UPDATE SET
        work = (excluded.work || run_times.work)[1:{KEPT}],
        start_seconds = (excluded.start_seconds || run_times.start_seconds)[1:{KEPT}],
        seconds = (excluded.seconds || run_times.seconds)[1:{KEPT}]
""")  # noqa: S608 - made of constants
)


async def record_success(connection: AsyncConnection, step_id: UUID) -> None:
    """Add a step that succeeds in this transaction. One whose start is unknown, or was written by
    hand, is no sample.

    The row stays locked until the commit, so this comes last in a transaction.
    """
    await _RECORD.run(connection, step_id=step_id)


async def run_times_of(
    connection: AsyncConnection, kinds: Collection[Kind]
) -> dict[Kind, RunTimes]:
    """The samples of these kinds; a kind of which no step has succeeded is left out."""
    key = columns_of(run_times, Kind)
    rows = await connection.execute(
        select(run_times).where(
            tuple_(*key).in_([(kind.type, kind.checkpoint_sha256, kind.preset) for kind in kinds])
        )
    )
    return {read(Kind, row): read(RunTimes, row) for row in rows}
