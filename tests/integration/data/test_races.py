"""Many hands on one row, on a real PostgreSQL: one of them wins, and nobody meets a deadlock.

The connections are real and as many as there are hands; a start signal lets them go together, and
rounds make up for what a scheduler does to one of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.database import execute
from tests.support.memory_store import Work
from tests.support.stores import InPostgres, note, picture

from shared.db.engine import Connection, Database
from shared.db.rescue import expired_lease
from shared.db.step_store import PostgresStepStore
from shared.db.transitions import request_cancel
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim, ClaimRequest, OrphanedStep, Stale

pytestmark = pytest.mark.timeout(240)

CLAIMERS = 20
# Each run is another order of the same moments: a few every day, many now and then.
ROUNDS = pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.slow)])
DONE = AttemptResult(state=StepState.SUCCEEDED, reason=Reason.COMPLETED, attempt=1, losses=0)


def lost(step: OrphanedStep) -> AttemptResult:
    return AttemptResult(
        state=StepState.FAILED, reason=Reason.LEASE_LOST, attempt=step.attempt, losses=1, error={}
    )


class Hands:
    """`count` stores, each on connections of its own."""

    def __init__(self, url: str, databases: list[Database]) -> None:
        self.url = url
        self.stores = [PostgresStepStore(database) for database in databases]
        self.databases = databases
        self.subject = InPostgres(databases[0], url)

    def claim_request(self, lease_s: float = 60.0) -> ClaimRequest:
        return ClaimRequest(
            worker_id=uuid4(),
            slot="cpu-0",
            queues=("default",),
            device="cpu",
            capacity_bytes=1,
            models=(self.subject.model_id,),
            lease_s=lease_s,
        )

    async def cancel(self, hand: int, job: UUID) -> None:
        await self.databases[hand].transaction(request_cancel, job)

    def deadlocks(self) -> int:
        ((count,),) = execute(
            self.url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return int(count)


@asynccontextmanager
async def hands(url: str, count: int) -> AsyncIterator[Hands]:
    databases = [Database(url, pool_size=1, application=f"hand-{n}") for n in range(count)]
    try:
        yield Hands(url, databases)
    finally:
        for database in databases:
            await database.close()


async def together(*works: Callable[[], Awaitable[object]]) -> None:
    """Start them all, let them go at once, wait for all."""
    start = anyio.Event()

    async def go(work: Callable[[], Awaitable[object]]) -> None:
        await start.wait()
        await work()

    async with anyio.create_task_group() as tasks:
        for work in works:
            tasks.start_soon(go, work)
        start.set()


def test_of_twenty_claimers_one_gets_the_step(database_url: str) -> None:
    async def main() -> None:
        async with hands(database_url, CLAIMERS) as all_hands:
            for _ in range(10):
                await all_hands.subject.create(Work())
                won: list[Claim] = []

                async def claim(store: PostgresStepStore, won: list[Claim] = won) -> None:
                    if (taken := await store.claim(all_hands.claim_request())) is not None:
                        won.append(taken)

                await together(*(lambda s=store: claim(s) for store in all_hands.stores))
                assert len(won) == 1

    anyio.run(main)


@ROUNDS
def test_a_cancel_and_a_completion_at_once_leave_one_verdict(
    database_url: str, rounds: int
) -> None:
    verdicts: Counter[str] = Counter()

    async def main() -> None:
        async with hands(database_url, 2) as two:
            store = two.stores[0]
            for _ in range(rounds):
                job = await two.subject.create(Work())
                claim = await store.claim(two.claim_request())
                assert claim is not None
                await store.commit_running(claim, [])
                first = random.choice(("cancel", "finish"))
                works = {
                    "cancel": lambda j=job: two.cancel(1, j),
                    "finish": lambda c=claim: store.finish(c, DONE),
                }
                await together(works.pop(first), *works.values())
                found = await two.subject.job(job)
                verdicts[found["status"]] += 1
                assert (await two.subject.codes(job)).count("job.finish") == 1

    anyio.run(main)
    # A completion that is offered wins: the cancel is a request, and the work is there.
    assert verdicts == {"succeeded": rounds}


@ROUNDS
def test_claim_cancel_sweep_and_verdict_at_once_end_every_job_without_a_deadlock(
    database_url: str, rounds: int
) -> None:
    """The owner's lease is over as soon as it begins, so everybody has a right to the step."""

    async def one_round(four: Hands) -> None:
        jobs = [await four.subject.create(Work(), Work(name="second")) for _ in range(4)]
        claimed: list[Claim] = []
        for _ in jobs:
            claim = await four.stores[0].claim(four.claim_request(lease_s=0.001))
            assert claim is not None
            claimed.append(claim)

        async def verdicts() -> None:
            for claim in claimed:
                try:
                    await four.stores[0].record(claim, None, [note()])
                    await four.stores[0].finish(claim, DONE)
                except Stale:
                    continue  # swept, or cancelled by somebody who was right to

        async def cancels() -> None:
            for job in reversed(jobs):
                await four.cancel(1, job)

        async def sweeps() -> None:
            while await four.stores[2].rescue_expired(lost) is not None:
                continue

        async def claims() -> None:
            while (taken := await four.stores[3].claim(four.claim_request())) is not None:
                await four.stores[3].finish(taken, DONE)

        await together(verdicts, cancels, sweeps, claims)
        await sweeps()
        await claims()
        for job in jobs:
            assert (await four.subject.codes(job)).count("job.finish") == 1
            assert (await four.subject.job(job))["reason"] is not None

    async def main() -> None:
        async with hands(database_url, 4) as four:
            before = four.deadlocks()
            for _ in range(rounds // 2):
                await one_round(four)
            assert four.deadlocks() == before

    anyio.run(main)


@pytest.mark.parametrize(
    "write",
    [
        lambda store, claim: store.commit_running(claim, [note()]),
        lambda store, claim: store.record(claim, StepState.STOPPING, [note()]),
        lambda store, claim: store.add_artifact(claim, picture(), note()),
        lambda store, claim: store.finish(claim, DONE),
    ],
    ids=["commit_running", "record", "add_artifact", "finish"],
)
def test_an_owner_that_waited_for_the_lock_of_its_rescuer_writes_nothing(
    database_url: str, write: Callable[[PostgresStepStore, Claim], Awaitable[object]]
) -> None:
    """Its statement has begun before the rescue is committed, and so has its snapshot."""

    async def main() -> None:
        async with hands(database_url, 2) as two:
            owner = two.stores[0]
            job = await two.subject.create(Work())
            claim = await owner.claim(two.claim_request(lease_s=0.001))
            assert claim is not None
            refused = []

            async def write_late() -> None:
                with pytest.raises(Stale):
                    await write(owner, claim)
                refused.append(True)

            async def rescue(connection: Connection) -> None:
                assert await expired_lease(connection, again) is not None
                tasks.start_soon(write_late)
                await until_waits(two.url, "hand-0")

            async with anyio.create_task_group() as tasks:
                await two.databases[1].transaction(rescue)
            assert refused
            (step,) = await two.subject.steps(job)
            assert step["state"] == StepState.QUEUED
            assert await two.subject.codes(job) == ["job.created", "step.claimed"]

    anyio.run(main)


def again(step: OrphanedStep) -> AttemptResult:
    return AttemptResult(state=StepState.QUEUED, reason=None, attempt=step.attempt, losses=1)


async def until_waits(url: str, application: str) -> None:
    """Until the only connection of this application waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = %s AND wait_event_type = 'Lock'"
    )
    with anyio.fail_after(20):
        while execute(url, waiting, application) != [(1,)]:
            await anyio.sleep(0.01)
