"""What creates are planned with: how long it is kept, and who reads it again."""

from __future__ import annotations

import anyio
import pytest

from api.limits import MARGIN, UnfinishedJobs
from api.planning import FRESH_S, Planning, PlanningCache
from shared.db.models import Registry
from shared.db.workers import Worker
from shared.errors import InfraUnavailable
from shared.settings import Settings

REGISTRY = Registry(models=(), version="1")


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Workers:
    """Counts reads; each takes a moment, as a statement does."""

    reads = 0
    away = False

    async def read(self) -> list[Worker]:
        self.reads += 1
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise InfraUnavailable("away")
        return []


def kept(workers: Workers, clock: Clock) -> PlanningCache:
    cache = PlanningCache(workers.read, clock)
    cache.put(Planning(registry=REGISTRY, live=()))
    return cache


def test_nothing_is_kept_before_the_first_transaction() -> None:
    assert anyio.run(PlanningCache(Workers().read).get) is None


def test_workers_are_read_again_after_a_second_and_once_for_all_who_wait() -> None:
    async def main() -> None:
        workers, clock = Workers(), Clock()
        cache = kept(workers, clock)
        clock.seconds += FRESH_S / 2
        await cache.get()
        assert workers.reads == 0
        clock.seconds += FRESH_S
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(cache.get)
        assert workers.reads == 1

    anyio.run(main)


def test_a_read_that_failed_keeps_nothing_fresh() -> None:
    async def main() -> None:
        workers, clock = Workers(), Clock()
        cache = kept(workers, clock)
        clock.seconds += FRESH_S
        workers.away = True
        with pytest.raises(InfraUnavailable):
            await cache.get()
        workers.away = False
        await cache.get()
        assert workers.reads == 2

    anyio.run(main)


def unfinished(maximum: int, clock: Clock, *, per_minute: int = 0) -> UnfinishedJobs:
    settings = Settings.model_construct(max_unfinished_jobs=maximum, max_jobs_per_minute=per_minute)
    return UnfinishedJobs(settings, clock)


def test_a_small_bound_is_always_counted_under_the_lock() -> None:
    assert unfinished(MARGIN, Clock()).near("shop")
    assert unfinished(0, Clock(), per_minute=5).near("shop")


def test_without_a_bound_nothing_is_counted() -> None:
    jobs = unfinished(0, Clock())
    assert not jobs.near("shop")
    assert jobs.count_below("shop") is None


def test_a_count_is_good_for_as_long_as_what_is_left_would_last() -> None:
    clock = Clock()
    jobs = unfinished(3 * MARGIN, clock)
    assert jobs.count_below("shop") == 2 * MARGIN  # nothing is known of this user
    jobs.record("shop", MARGIN)
    clock.seconds += 1.9
    assert jobs.count_below("shop") is None
    clock.seconds += 0.2
    assert jobs.count_below("shop") == 2 * MARGIN
    assert jobs.count_below("another") == 2 * MARGIN


def test_creates_of_this_process_are_added_to_what_was_counted() -> None:
    jobs = unfinished(2 * MARGIN, Clock())
    jobs.record("shop", MARGIN - 2)
    assert not jobs.near("shop")
    jobs.record("shop", None)
    assert jobs.near("shop")
