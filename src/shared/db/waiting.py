"""The waiting line: the steps that wait, in the order of the claim, and what they wait for.

`api.waiting` estimates from it when a step will start. `shared.db.claim` alone knows the order.
Reading is bounded: the first `HEAD` steps of each device, whatever the number of those that wait,
and one row for each slot that is busy.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.claim import steps_in_turn
from shared.db.run_times import KIND, WORK, Kind, RunTimes, run_times_of
from shared.db.stored_values import seconds_sql
from shared.db.tables import read
from shared.db.workers import Worker, live_workers

HEAD = 1000
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class LineStep:
    """A step that waits or holds a slot. `work` is as in `RunTimes`."""

    id: UUID
    job_id: UUID
    user: str
    device: str
    priority: str
    vram_bytes: int
    model_id: UUID | None
    kind: Kind
    work: float
    timeout_s: float
    due_in_s: float  # of a step that waits: positive during the pause before another try
    loras: Sequence[UUID] | None = None
    worker_id: UUID | None = None
    held_s: float | None = None  # since its claim, if that is known
    last: bool = True  # its job ends with it


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """`waiting` is in the order of the claim; of the devices in `cut` more steps wait behind."""

    waiting: Sequence[LineStep]
    cut: Collection[str]
    running: Sequence[LineStep]
    live: Sequence[Worker]
    run_times: Mapping[Kind, RunTimes]


_STEPS = f"""
    SELECT s.id, s.job_id, s."user", s.device, s.priority, s.vram_bytes, s.model_id, s.timeout_s,
        s.loras, {KIND}, {WORK} AS work,
        coalesce({seconds_sql("s.run_at - now()")}, 0) AS due_in_s,
        s.lease_owner AS worker_id, {seconds_sql("now() - s.claimed_at")} AS held_s,
        NOT EXISTS (
            SELECT FROM steps AS later
            WHERE later.job_id = s.job_id AND later.position > s.position
        ) AS last
    FROM steps AS s
"""  # noqa: S608 - made of constants
_BY_ID = text(f"{_STEPS} WHERE s.id = ANY (:ids) AND s.state = 'queued'")
_RUNNING = text(f"{_STEPS} WHERE s.lease_owner IS NOT NULL")
_OF_JOBS = text(f"{_STEPS} WHERE s.state = 'queued' AND s.job_id = ANY (:job_ids)")


async def read_line(connection: AsyncConnection, *, max_passed_s: float, head: int = HEAD) -> Line:
    """The line as it is now, at most `head` steps of each device."""
    waiting: list[LineStep] = []
    cut = set()
    for device in DEVICES:
        ids = await steps_in_turn(connection, device, max_passed_s=max_passed_s, limit=head + 1)
        if len(ids) > head:
            cut.add(device)
        if ids:
            found = {step.id: step for step in await _read(connection, _BY_ID, ids=ids[:head])}
            waiting += [found[each] for each in ids if each in found]
    running = await _read(connection, _RUNNING)
    kinds = {step.kind for step in (*waiting, *running)}
    return Line(
        waiting=waiting,
        cut=cut,
        running=running,
        live=await live_workers(connection),
        run_times=await run_times_of(connection, kinds),
    )


async def waiting_steps(
    connection: AsyncConnection, job_ids: Collection[UUID]
) -> dict[UUID, LineStep]:
    """By job, the step that waits for a slot, wherever it is in the line; none of other jobs."""
    steps = await _read(connection, _OF_JOBS, job_ids=list(job_ids))
    return {step.job_id: step for step in steps}


async def _read(connection: AsyncConnection, query: Any, **values: Any) -> list[LineStep]:
    return [_step(row) for row in await connection.execute(query, values)]


def _step(row: Row[Any]) -> LineStep:
    return read(LineStep, row, kind=read(Kind, row))
