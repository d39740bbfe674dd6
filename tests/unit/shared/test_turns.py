"""What the order of the claim means over hours: shares, returns from a pause, and bounded waits.

Played on the in-memory store. `test_claim_order` holds PostgreSQL to the same order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import anyio
import pytest
from tests.support.memory_store import MemoryStepStore, StoredStep, Work
from tests.support.stores import AGAIN, SUCCESS, InMemory, claim_request

from shared.states import Priority, StepState
from shared.step_store import AttemptResult, Claim, OrphanedStep

LONGEST_S = 60.0
LEASE_S = 100_000.0


@dataclass
class Played:
    """A queue, and one worker that takes a step after the other."""

    rng: random.Random
    subject: InMemory = field(default_factory=InMemory)
    used_s: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> MemoryStepStore:
        return self.subject.store

    async def create(self, count: int, **facts: object) -> None:
        for _ in range(count):
            await self.subject.create(replace(Work(), **facts))  # type: ignore[arg-type]

    async def take(self, *, overdue: bool = True) -> Claim:
        request = claim_request(self.subject, lease_s=LEASE_S, overdue=overdue)
        claim = await self.store.claim(request)
        assert claim is not None
        await self.store.commit_running(claim, [])
        return claim

    async def run_one(self, *, crashes: float = 0.0, overdue: bool = True) -> Claim:
        """Claim a step and end it after its random time, or with its worker."""
        claim = await self.take(overdue=overdue)
        seconds = self.rng.uniform(1.0, LONGEST_S)
        self.store.pass_time(seconds)
        self.used_s[claim.user] += seconds  # type: ignore[assignment]
        if self.rng.random() >= crashes:
            await self.store.finish(claim, SUCCESS)
            return claim
        self.store.steps[claim.step_id].lease_expires_at = self.store.now()
        while await self.store.rescue_expired(_again) is None:
            await anyio.sleep(0)
        return claim

    def waiting(self, user: str) -> list[StoredStep]:
        return [
            step
            for step in self.store.steps.values()
            if step.user == user and step.state is StepState.QUEUED
        ]


def _again(_: OrphanedStep) -> AttemptResult:
    return replace(AGAIN, losses=1)


def play(seed: int, test: Callable[[Played], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Played(random.Random(seed)))

    anyio.run(main)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("crashes", [0.0, 0.2])
@pytest.mark.parametrize(
    "weights", [{"ada": 1.0, "bob": 1.0, "eve": 1.0}, {"ada": 1.0, "bob": 2.0, "eve": 0.5}]
)
def test_who_waits_all_the_time_gets_its_share_but_for_one_step(
    seed: int, crashes: float, weights: Mapping[str, float]
) -> None:
    async def test(played: Played) -> None:
        for user, weight in weights.items():
            await played.create(40, user=user, weight=weight)
        while all(played.waiting(user) for user in weights):
            await played.run_one(crashes=crashes)
            total_s = sum(played.used_s.values())
            for user, weight in weights.items():
                share_s = total_s * weight / sum(weights.values())
                # The step may be one of a user with less weight, which counts for more.
                step_s = LONGEST_S * weight / min(weights.values())
                assert played.used_s[user] >= share_s - step_s - 1.0

    play(seed, test)


@pytest.mark.parametrize("seed", range(5))
def test_who_comes_back_has_saved_nothing_up(seed: int) -> None:
    async def test(played: Played) -> None:
        await played.create(1, user="bob")
        await played.run_one()
        await played.create(100, user="ada")
        for _ in range(50):
            await played.run_one()
        played.used_s.clear()
        await played.create(50, user="bob")
        for _ in range(20):
            await played.run_one()
        assert abs(played.used_s["ada"] - played.used_s["bob"]) <= 2 * LONGEST_S

    play(seed, test)


@pytest.mark.parametrize("seed", range(5))
def test_a_low_step_is_not_passed_for_longer_than_its_time(seed: int) -> None:
    async def test(played: Played) -> None:
        await played.create(1, user="ada", priority=Priority.LOW)
        low = played.waiting("ada")[0]
        created_at = played.store.now()
        while low.state is StepState.QUEUED:
            await played.create(2, user="bob", priority=Priority.HIGH)
            await played.run_one()
        assert played.store.now() - created_at <= 600.0 + 2 * LONGEST_S + 1.0

    play(seed, test)


@pytest.mark.parametrize("seed", range(3))
def test_a_backlog_of_low_steps_takes_every_other_turn_at_most(seed: int) -> None:
    """As a worker asks: after an overdue step it leaves that rule out once."""

    async def test(played: Played) -> None:
        await played.create(30, user="ada", priority=Priority.LOW)
        played.store.pass_time(1000.0)
        overdue, turns = False, list[bool]()
        for _ in range(20):
            await played.create(1, user="bob", priority=Priority.HIGH)
            overdue = (await played.run_one(overdue=not overdue)).overdue
            turns.append(overdue)
        assert turns == [True, False] * 10

    play(seed, test)
