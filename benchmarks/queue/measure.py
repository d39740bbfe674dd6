"""What the queue costs, by how much is in it: `make bench-queue`.

Each figure is CPU time of one operation, of this process and of its session of PostgreSQL together,
so that other work on the machine does not count. It is the median of several rounds of calls.
`--ended` and `--waiting` make the tables smaller for a quick look.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import psycopg
from benchmarks.queue import claimers
from migrations.upgrade import upgrade
from tests.support.queue_rows import CAPACITY_BYTES, MODELS, Rows, end_all, make

from cli.stack.infrastructure import manage_processes, plan
from cli.state_dir import StateDir
from shared.db import jobs, retention
from shared.db.create_job import create_job
from shared.db.engine import Database
from shared.db.insert_job import NewJob, NewStep
from shared.db.step_store import PostgresStepStore
from shared.db.tables import VACUUMED_OFTEN
from shared.db.transitions import request_cancel
from shared.db.waiting import read_line
from shared.states import Priority, Status
from shared.step_store import AttemptResult, ClaimRequest, OrphanedStep

ROUNDS, CALLS = 7, 10
MODEL_IDS = tuple(UUID(f"00000000-0000-4000-8000-{n:012d}") for n in range(MODELS))
REQUEST = ClaimRequest(
    worker_id=uuid4(),
    slot="gpu-0",
    queues=("default",),
    device="cuda",
    capacity_bytes=CAPACITY_BYTES,
    models=MODEL_IDS,
    lease_s=3600.0,
)
# What ended at most since the last round of autovacuum: its threshold for `steps`, and what 20
# claimers end in PostgreSQL's pause of a minute between two rounds.
UNVACUUMED = int(VACUUMED_OFTEN["autovacuum_vacuum_threshold"]) + 60 * 140
MONTH_S = 30 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A full queue, and what happens to it before it is measured."""

    name: str
    rows: Rows
    end_at_once: int | None = None  # so many of what fits no slot, by each statement
    vacuum: bool = False  # after each of those statements but the last


class Session:
    """One session of PostgreSQL, and the operations that are measured on it."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=1, application="bench-queue")
        self.store = PostgresStepStore(self.database)
        self._url = url
        self._pid = 0

    async def open(self) -> None:
        await self.database.ping()
        with psycopg.connect(self._url) as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'bench-queue'"
            ).fetchone()
        assert row is not None
        self._pid = row[0]

    def cpu_s(self) -> float:
        """CPU seconds that this process and the session have used."""
        server_ns = int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[0])
        return server_ns / 1e9 + time.process_time()

    async def claim(self) -> None:
        assert await self.store.claim(REQUEST) is not None

    async def create(self) -> None:
        await self.database.transaction(create_job, _new_job())

    async def list_jobs(self) -> None:
        await self.database.transaction(jobs.page, user="user0", limit=50)

    async def list_running(self) -> None:
        await self.database.transaction(jobs.page, user="user0", status=Status.RUNNING, limit=50)

    async def cancel(self) -> None:
        new = _new_job()
        await self.database.transaction(create_job, new)
        await self.database.transaction(request_cancel, new.id)

    async def sweep(self) -> None:
        assert await self.store.rescue_expired(_never) is None
        assert await self.store.rescue_unclaimed(_never, MONTH_S) is None

    async def prune(self) -> None:
        age_s = 2 * 3600.0 - 1200.0
        for work in (retention.delete_artifacts, retention.delete_events):
            assert not await self.database.transaction(work, age_s=age_s, limit=500)
        assert not await self.database.transaction(retention.delete_jobs, age_s=MONTH_S, limit=100)

    async def metrics(self) -> None:
        await self.database.transaction(jobs.queue_depth)

    async def line(self) -> None:
        line = await self.database.transaction(read_line, max_passed_s=MONTH_S)
        assert line.waiting


def _never(_: OrphanedStep) -> AttemptResult:
    raise AssertionError("nothing is to be rescued here")


def _new_job() -> NewJob:
    step = NewStep(
        id=uuid4(),
        name="generate",
        type="generate",
        params={},
        queue="default",
        device="cuda",
        preset={"name": "gpu"},
        vram_bytes=CAPACITY_BYTES // 2,
        timeout_s=600.0,
        model_id=MODEL_IDS[0],
        checkpoint_sha256="0" * 64,
    )
    return NewJob(
        id=uuid4(),
        type="generate",
        user="user0",
        request={"type": "generate", "prompt": "a red apple"},
        count=1,
        correlation_id="bench",
        priority=Priority.LOW,
        steps=[step],
    )


Operation = Callable[[Session], Awaitable[None]]
OPERATIONS: dict[str, Operation] = {
    "claim": Session.claim,
    "create": Session.create,
    "list": Session.list_jobs,
    "list running": Session.list_running,
    "create, cancel": Session.cancel,
    "sweep": Session.sweep,
    "prune": Session.prune,
    "metrics": Session.metrics,
    "waiting figure": Session.line,
}


async def measure(url: str, case: Case) -> dict[str, float]:
    """CPU milliseconds of each operation, and of the first claim (`first claim`).

    Where steps end, that is the slowest of the first claims after each statement that ends some.
    """
    session = Session(url)
    try:
        await session.open()
        figures = {"first claim": await _first_claim_ms(session)}
        if case.end_at_once is not None:
            ended = end_all(url, at_once=case.end_at_once, vacuum=case.vacuum)
            figures["first claim"] = max([await _first_claim_ms(session) for _ in ended])
        for name, operation in OPERATIONS.items():
            figures[name] = await _median_ms(session, operation)
    finally:
        await session.database.close()
    return figures


async def _first_claim_ms(session: Session) -> float:
    before = session.cpu_s()
    await session.claim()
    return (session.cpu_s() - before) * 1e3


async def _median_ms(session: Session, operation: Operation) -> float:
    await operation(session)
    rounds = []
    for _ in range(ROUNDS):
        before = session.cpu_s()
        for _ in range(CALLS):
            await operation(session)
        rounds.append((session.cpu_s() - before) / CALLS * 1e3)
    return statistics.median(rounds)


def cases(waiting: int, ended: int) -> list[Case]:
    few = Rows(waiting=1000)
    return [
        Case(name="1 k waiting", rows=few),
        Case(name="1 k in 1,000 classes", rows=Rows(waiting=1000, classes=1000)),
        Case(name="many waiting", rows=Rows(waiting=waiting)),
        Case(name="many in 1,000 classes", rows=Rows(waiting=waiting, classes=1000)),
        Case(name="many unfit in front", rows=Rows(waiting=1000, unfit=waiting, classes=60)),
        Case(
            name="the same, ended as fast as claims",
            rows=Rows(waiting=1000, unfit=waiting, classes=60),
            end_at_once=min(waiting, UNVACUUMED),
            vacuum=True,
        ),
        Case(
            name="the same, ended by and by",
            rows=Rows(waiting=1000, unfit=waiting, classes=60),
            end_at_once=max(1, waiting // 50),
        ),
        Case(
            name="the same, ended at once",
            rows=Rows(waiting=1000, unfit=waiting, classes=60),
            end_at_once=waiting,
        ),
        Case(name="and many ended", rows=Rows(waiting=waiting, ended=ended, classes=60)),
    ]


def run(url: str, waiting: int, ended: int, only: Collection[str]) -> None:
    """Print a line for each case as it is known; of all, if `only` names none."""
    upgrade(url)
    names = ["first claim", *OPERATIONS]
    print("| CPU ms | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for case in cases(waiting, ended):
        if only and case.name not in only:
            continue
        make(url, case.rows)
        figures = anyio.run(measure, url, case)
        cells = " | ".join(f"{figures[name]:.1f}" for name in names)
        print(f"| {case.name} | {cells} |", flush=True)
    print()
    for line in claimers.table(claimers.rows(url)):
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--ended", type=int, default=10_000_000)
    parser.add_argument("--case", action="append", default=[], help="only this one, and others")
    arguments = parser.parse_args()
    sizes = (arguments.waiting, arguments.ended, arguments.case)
    if url := os.environ.get("BENCH_DATABASE_URL"):
        run(url, *sizes)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = StateDir(Path(folder) / "home")
        home.path.mkdir()
        with manage_processes(home, print) as manager:
            planned = plan(home, {})
            planned.start(manager)
            assert planned.admin_url is not None
            run(planned.admin_url, *sizes)


if __name__ == "__main__":
    main()
