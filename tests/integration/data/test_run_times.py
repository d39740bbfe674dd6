"""The samples of how long steps take: successes only, the newest, by kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.support.database import execute
from tests.support.memory_store import Work
from tests.support.stores import CHECKSUM, FAILURE, SUCCESS, InPostgres, claimed_job

from shared.db.engine import Database
from shared.db.run_times import KEPT, Kind, RunTimes, run_times_of
from shared.step_store import AttemptResult

CPU = {"name": "cpu", "version": 1}
WORK = Work(preset=CPU, params={"width": 64, "height": 32, "steps": 4, "count": 2})
KIND = Kind(type="generate", checkpoint_sha256=CHECKSUM, preset="cpu@1")


class Installation(InPostgres):
    def __init__(self, database: Database, url: str) -> None:
        super().__init__(database, url)
        self.database = database
        self.url = url

    async def run_step(
        self, work: Work = WORK, end: AttemptResult = SUCCESS, *, seconds: float = 5.0
    ) -> None:
        """A step that took 2 s to start, and so many seconds from claim to end."""
        _, taken = await claimed_job(self, work)
        await self.store.commit_running(taken, [])
        execute(
            self.url,
            "UPDATE steps SET claimed_at = now() - %s * interval '1 s',"
            " attempt_started_at = now() - (%s - 2) * interval '1 s' WHERE id = %s",
            seconds,
            seconds,
            taken.step_id,
        )
        await self.store.finish(taken, end)

    async def samples(self, *kinds: Kind) -> dict[Kind, RunTimes]:
        return await self.database.transaction(run_times_of, kinds)


Test = Callable[[Installation], Awaitable[None]]


@pytest.fixture
def run(database_url: str) -> Callable[[Test], None]:
    def run_test(test: Test) -> None:
        async def main() -> None:
            database = Database(database_url, application="run times")
            try:
                await test(Installation(database, database_url))
            finally:
                await database.close()

        anyio.run(main)

    return run_test


def near(*seconds: float) -> Any:
    return pytest.approx(list(seconds), abs=1.9)


def test_a_success_is_a_sample_of_its_kind(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        await installation.run_step(seconds=10)
        await installation.run_step(seconds=20)
        other = Work(preset={"name": "cpu", "version": 2}, needs_model=False, params={"count": 3})
        await installation.run_step(other, seconds=30)
        found = await installation.samples(KIND)
        assert found.keys() == {KIND}
        assert found[KIND].work == [64 * 32 * 4 * 2] * 2
        assert found[KIND].seconds == near(20, 10)
        assert found[KIND].start_seconds == near(2, 2)
        another = Kind(type="generate", checkpoint_sha256="", preset="cpu@2")
        found = await installation.samples(KIND, another)
        assert (found[another].work, found[another].seconds) == ([3], near(30))

    run(test)


def test_what_did_not_succeed_is_no_sample(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        await installation.run_step(end=FAILURE)
        assert await installation.samples(KIND) == {}

    run(test)


def test_what_a_worker_of_the_version_before_ran_is_no_sample(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        _, taken = await claimed_job(installation, WORK)
        await installation.store.commit_running(taken, [])
        execute(installation.url, "UPDATE steps SET claimed_at = NULL, attempt_started_at = NULL")
        await installation.store.finish(taken, SUCCESS)
        assert await installation.samples(KIND) == {}

    run(test)


def test_only_the_newest_are_kept(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        await installation.run_step(seconds=100)
        seven = f"array_fill(7.0::float, ARRAY[{KEPT}])"
        columns = ("work", "start_seconds", "seconds")
        changes = ", ".join(f"{column} = {seven}" for column in columns)
        execute(installation.url, f"UPDATE run_times SET {changes}")
        await installation.run_step(seconds=50)
        kept = (await installation.samples(KIND))[KIND]
        assert len(kept.work) == len(kept.start_seconds) == len(kept.seconds) == KEPT
        assert kept.seconds == near(50, *[7.0] * (KEPT - 1))

    run(test)
