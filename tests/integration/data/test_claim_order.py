"""Whose turn it is: the statement of `shared.db.claim` against the model in `claim_order`."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.database import execute
from tests.support.memory_store import MemoryStepStore, Work
from tests.support.stores import AGAIN, SUCCESS, InMemory, InPostgres, Subject, claim_request

from shared.db.claim import steps_in_turn
from shared.db.engine import Database
from shared.states import Priority
from shared.step_store import AttemptResult, Claim, ClaimRequest, OrphanedStep

pytestmark = pytest.mark.timeout(240)

LONG_S = 1_000_000.0
MAX_PASSED_S = 600.0
USERS = {"ada": 1.0, "bob": 2.0, "eve": 0.5}
MOMENTS = ("created_at", "run_at", "claimed_at", "lease_expires_at")
# What a machine under load may take longer in one store than in the other, over a few calls.
MOST_APART_S = 20.0


@dataclass
class Twins:
    """The two stores, which get the same work at the same pace."""

    memory: InMemory
    postgres: InPostgres
    url: str
    models: list[UUID]
    jobs: list[tuple[UUID, UUID]] = field(default_factory=list)  # one in each store
    claims: list[tuple[Claim, Claim]] = field(default_factory=list)

    async def create(self, work: Work) -> None:
        self.jobs.append((await self.memory.create(work), await self.postgres.create(work)))

    async def claim(self, request: ClaimRequest) -> int | None:
        """Claim in both; the number of the job, which must be the same."""
        upcoming = [await each.store.due_next(request, 1) for each in self._subjects]
        taken = [await each.store.claim(request) for each in self._subjects]
        numbers = [self._number(claim) for claim in taken]
        assert numbers[0] == numbers[1], (request, self._waiting())
        assert [bool(each) for each in upcoming] == [claim is not None for claim in taken]
        first, second = taken
        if first is None or second is None:
            return None
        assert upcoming[0][0].params == upcoming[1][0].params == first.params
        assert first.overdue == second.overdue
        for subject, claim in zip(self._subjects, taken, strict=True):
            assert claim is not None
            await subject.store.commit_running(claim, [])
        self.claims.append((first, second))
        return numbers[0]

    async def finish(self, index: int, end: AttemptResult) -> None:
        pair = self.claims.pop(index)
        for subject, claim in zip(self._subjects, pair, strict=True):
            await subject.store.finish(claim, end)
        self._align_accounts()

    async def crash(self, index: int) -> None:
        """The worker of a claim is gone, its lease ends, and the rescuer puts the step back."""
        first, second = self.claims.pop(index)
        self.memory.store.steps[first.step_id].lease_expires_at = self.memory.store.now()
        self._execute(
            "UPDATE steps SET lease_expires_at = now() WHERE id = %s", str(second.step_id)
        )
        for subject in self._subjects:
            with anyio.fail_after(20):
                while await subject.store.rescue_expired(_again) is None:
                    await anyio.sleep(0)
        self._renew_leases()
        self._align_accounts()

    def _renew_leases(self) -> None:
        """As the owners would that live: PostgreSQL's rescuer leaves no lease as long as ours."""
        self._execute(
            f"UPDATE steps SET lease_expires_at = now() + interval '{LONG_S} s' "
            "WHERE lease_owner IS NOT NULL"
        )

    def _align_accounts(self) -> None:
        """Take the milliseconds out by which one store was slower: two users may be as close."""
        for (user, device), share in self.memory.store.shares.items():
            figures = (share.virtual_s, share.start_s, share.mean_s)
            where = """WHERE "user" = %s AND device = %s"""
            stored = self._execute(
                f"SELECT virtual_s, start_s, mean_s FROM shares {where}", user, device
            )
            assert stored == [pytest.approx(figures, abs=MOST_APART_S)], (user, device)
            self._execute(
                f"UPDATE shares SET (virtual_s, start_s, mean_s) = (%s, %s, %s) {where}",
                *figures,
                user,
                device,
            )

    def pass_time(self, seconds: float) -> None:
        self.memory.store.pass_time(seconds)
        moved = ", ".join(f"{name} = {name} - interval '{seconds} s'" for name in MOMENTS)
        self._execute(f"UPDATE steps SET {moved}")
        self._execute(f"UPDATE shares SET ended_at = ended_at - interval '{seconds} s'")

    @property
    def _subjects(self) -> tuple[Subject, Subject]:
        return self.memory, self.postgres

    def _number(self, claim: Claim | None) -> int | None:
        if claim is None:
            return None
        return next(n for n, pair in enumerate(self.jobs) if claim.job_id in pair)

    def _waiting(self) -> list[object]:
        return [(s.user, s.priority, s.run_at, s.state) for s in self.memory.store.steps.values()]

    def _execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        return execute(self.url, statement, *values)


def _again(_: OrphanedStep) -> AttemptResult:
    return replace(AGAIN, losses=1)


def random_work(rng: random.Random, models: list[UUID], number: int) -> Work:
    user = rng.choice(list(USERS))
    return Work(
        params={"number": number},
        user=user,
        weight=USERS[user],
        priority=rng.choice(list(Priority)),
        model_id=rng.choice(models),
        needs_model=rng.random() < 0.9,
        loras=tuple(rng.sample(models, rng.randint(0, len(models))))
        if rng.random() < 0.3
        else None,
        vram_bytes=rng.choice([10, 100, 1000]),
        device=rng.choice(["cpu", "cpu", "cuda"]),
    )


def random_request(rng: random.Random, subject: Subject, models: list[UUID]) -> ClaimRequest:
    return claim_request(
        subject,
        worker_id=uuid4(),
        device=rng.choice(["cpu", "cpu", "cuda"]),
        capacity_bytes=rng.choice([10, 100, 1000]),
        models=tuple(rng.sample(models, rng.randint(1, len(models)))),
        warm=tuple(rng.sample(models, rng.randint(0, 2))),
        lease_s=LONG_S,
        max_passed_s=MAX_PASSED_S,
        overdue=rng.random() < 0.7,
        users=rng.choice([(), (), (), ("ada", "bob")]),
        priorities=rng.choice([(), (), (), ("high", "low")]),
    )


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]
)
def test_both_stores_choose_the_same_step_whatever_happens(database_url: str, seed: int) -> None:
    """Random arrivals, durations, users, slots, ends and crashes."""
    rng = random.Random(seed)

    async def main() -> None:
        database = Database(database_url, application="claim-order")
        try:
            postgres = InPostgres(database, database_url)
            models = [postgres.model_id, *[await postgres.add_model() for _ in range(3)]]
            memory = InMemory(MemoryStepStore(postgres.model_id))
            twins = Twins(memory, postgres, database_url, models)
            chosen = [await act(rng, twins) for _ in range(150)]
            assert sum(each is not None for each in chosen) > 20
        finally:
            await database.close()

    anyio.run(main)


@pytest.mark.parametrize("seed", range(4))
def test_the_line_is_the_order_in_which_claims_take_the_steps(database_url: str, seed: int) -> None:
    """Of users with accounts of their own, one of whom has used something just now."""
    rng = random.Random(seed)

    async def main() -> None:
        database = Database(database_url, application="claim-order")
        try:
            postgres = InPostgres(database, database_url)
            for number in range(40):
                work = random_work(rng, [postgres.model_id], number)
                await postgres.create(replace(work, device="cpu"))
            open_accounts(rng, database_url)
            assert await the_line(database) == await claim_all(postgres)
        finally:
            await database.close()

    anyio.run(main)


def test_the_line_takes_what_is_overdue_at_every_other_claim(database_url: str) -> None:
    async def main() -> None:
        database = Database(database_url, application="claim-order")
        try:
            postgres = InPostgres(database, database_url)
            jobs = [
                await postgres.create(Work(priority=priority, needs_model=False))
                for priority in (*[Priority.LOW] * 3, *[Priority.NORMAL] * 4, Priority.HIGH)
            ]
            execute(
                database_url,
                "UPDATE steps SET created_at = created_at - interval '1 hour'"
                " WHERE priority = 'low'",
            )
            line = await the_line(database)
            steps = {(await postgres.steps(job))[0]["id"]: n for n, job in enumerate(jobs)}
            assert [steps[each] for each in line] == [0, 7, 1, 3, 2, 4, 5, 6]
            assert line == await claim_all(postgres)
        finally:
            await database.close()

    anyio.run(main)


def open_accounts(rng: random.Random, url: str) -> None:
    for user, idle_s in zip(USERS, (0.0, 7200.0, 7200.0), strict=True):
        execute(
            url,
            "INSERT INTO shares VALUES (%s, 'cpu', %s, %s, %s, now() - %s * interval '1 s')",
            user,
            *(rng.uniform(1000.0, 9000.0) for _ in range(3)),
            idle_s,
        )


async def the_line(database: Database) -> list[UUID]:
    return await database.transaction(steps_in_turn, "cpu", max_passed_s=MAX_PASSED_S, limit=1000)


async def claim_all(postgres: InPostgres) -> list[UUID]:
    """What one slot after another claims, as a worker asks: what is overdue every other time."""
    claimed: list[UUID] = []
    overdue = True
    while claim := await postgres.store.claim(
        claim_request(
            postgres,
            worker_id=uuid4(),
            lease_s=LONG_S,
            max_passed_s=MAX_PASSED_S,
            overdue=overdue,
        )
    ):
        claimed.append(claim.step_id)
        overdue = not claim.overdue
    return claimed


async def act(rng: random.Random, twins: Twins) -> int | None:
    """One random thing; the number of the job, if it was a claim that found one."""
    what = rng.random()
    if what < 0.3:
        twins.pass_time(rng.uniform(1.0, 300.0))
    if what < 0.55:
        await twins.create(random_work(rng, twins.models, len(twins.jobs)))
    elif what < 0.8:
        return await twins.claim(random_request(rng, twins.postgres, twins.models))
    elif twins.claims:
        index = rng.randrange(len(twins.claims))
        if rng.random() < 0.2:
            await twins.crash(index)
        else:
            await twins.finish(index, rng.choice([SUCCESS, SUCCESS, replace(AGAIN, delay_s=90.0)]))
    return None
