"""Claimers that ask at the same time: `rows(url)`, each row with more of them.

Each claimer is a process with one connection, as a worker is, and does nothing but claim: what they
reach together is what PostgreSQL and the order of the claim allow. No step may be claimed twice.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from uuid import UUID, uuid4

import anyio
from tests.support.queue_rows import CAPACITY_BYTES, MODELS, Rows, make

from shared.db.engine import Database
from shared.db.step_store import PostgresStepStore
from shared.step_store import ClaimRequest

CLAIMERS = (1, 2, 4, 8, 20)
SECONDS = 10.0
WAITING, CLASSES = 20_000, 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What so many claimers claimed, and how often one found nothing though steps waited."""

    claimers: int
    claims: int
    twice: int
    empty: int
    seconds: float

    @property
    def claims_s(self) -> float:
        return self.claims / self.seconds


_start: Barrier  # of a claimer: all begin at once


def rows(url: str) -> Iterator[Row]:
    """One row after another, each on a fresh queue."""
    for claimers in CLAIMERS:
        make(url, Rows(waiting=WAITING, classes=CLASSES))
        yield _together(url, claimers)


def _together(url: str, claimers: int) -> Row:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(claimers)
    with context.Pool(claimers, initializer=_remember, initargs=(barrier,)) as pool:
        results = pool.map(_claim, [url] * claimers, chunksize=1)
    claimed = [step for steps, _, _ in results for step in steps]
    return Row(
        claimers=claimers,
        claims=len(claimed),
        twice=len(claimed) - len(set(claimed)),
        empty=sum(empty for _, empty, _ in results),
        seconds=max(seconds for _, _, seconds in results),
    )


def _remember(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _claim(url: str) -> tuple[list[UUID], int, float]:
    return anyio.run(_claim_for_a_while, url)


async def _claim_for_a_while(url: str) -> tuple[list[UUID], int, float]:
    request = ClaimRequest(
        worker_id=uuid4(),
        slot="gpu-0",
        queues=("default",),
        device="cuda",
        capacity_bytes=CAPACITY_BYTES,
        models=tuple(UUID(f"00000000-0000-4000-8000-{n:012d}") for n in range(MODELS)),
        lease_s=3600.0,
    )
    database = Database(url, pool_size=1, application="bench-claimer")
    store, claimed, empty = PostgresStepStore(database), list[UUID](), 0
    try:
        await database.ping()
        _start.wait()
        began_s = time.monotonic()
        while (spent_s := time.monotonic() - began_s) < SECONDS:
            claim = await store.claim(request)
            if claim is None:
                empty += 1
            else:
                claimed.append(claim.step_id)
    finally:
        await database.close()
    return claimed, empty, spent_s


def table(measured: Iterator[Row]) -> Iterator[str]:
    """Lines of Markdown, each as soon as it is known."""
    yield "| claimers | claims a second | each | found nothing | claimed twice |"
    yield "|---|---|---|---|---|"
    for row in measured:
        yield (
            f"| {row.claimers} | {row.claims_s:.0f} | {row.claims_s / row.claimers:.1f} "
            f"| {row.empty} | {row.twice} |"
        )
