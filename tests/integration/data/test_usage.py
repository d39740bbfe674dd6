"""What is written about use, with the fact behind it: once, whoever writes the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from tests.support.memory_store import Work
from tests.support.stores import (
    AGAIN,
    FAILURE,
    SUCCESS,
    InPostgres,
    claim,
    claimed_job,
    ended,
    note,
    picture,
)

from shared.db import usage
from shared.db.engine import Database
from shared.db.usage import NO_MODEL, Usage
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim, OrphanedStep, Stale

LOST = ended(StepState.FAILED, Reason.ATTEMPTS_EXHAUSTED)


class Installation(InPostgres):
    """A store, whose moments a test can put into the past, and what was written about use."""

    def __init__(self, database: Database, url: str) -> None:
        super().__init__(database, url)
        self.database = database
        self.url = url

    async def usage(self) -> dict[str, Usage]:
        """By model."""
        today = datetime.now(UTC).date()
        day = timedelta(days=1)
        rows = await self.database.transaction(
            usage.page, since=today - day, until=today + day, limit=100
        )
        return {row.model: row for row in rows}

    def ago(self, step_id: UUID, **moments: float) -> None:
        """Put moments of a step so many seconds before now."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for name, seconds in moments.items():
                statement = f"UPDATE steps SET {name} = now() - %s * interval '1 s' WHERE id = %s"
                assert connection.execute(statement.encode(), (seconds, step_id)).rowcount == 1


Test = Callable[[Installation], Awaitable[None]]


@pytest.fixture
def run(database_url: str) -> Callable[[Test], None]:
    def run_test(test: Test) -> None:
        async def main() -> None:
            database = Database(database_url, application="usage")
            try:
                await test(Installation(database, database_url))
            finally:
                await database.close()

        anyio.run(main)

    return run_test


async def started(installation: Installation, *works: Work, count: int = 1) -> Claim:
    """A step that waited 30 s, was claimed 20 s ago, and got GO 10 s ago."""
    _, taken = await claimed_job(installation, *works, count=count)
    await installation.store.commit_running(taken, [])
    installation.ago(taken.step_id, run_at=50, claimed_at=20, attempt_started_at=10)
    return taken


def near(seconds: float) -> Any:
    """What passes between two statements of a test is small beside what it puts into the past."""
    return pytest.approx(seconds, abs=5)


def test_a_jobs_end_is_written_with_what_it_used(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        taken = await started(installation, Work(vram_bytes=1000), count=2)
        for item in (0, 1):
            await installation.store.add_artifact(taken, picture(item), note())
        await installation.store.finish(taken, SUCCESS)
        (used,) = (await installation.usage()).values()
        assert (used.user, used.model, used.pictures) == ("default", "tiny@1", 2)
        assert (used.jobs_succeeded, used.jobs_failed, used.jobs_cancelled) == (1, 0, 0)
        assert (used.wait_seconds, used.run_seconds) == (near(30), near(10))
        assert used.device_byte_seconds == pytest.approx(1000 * used.run_seconds)

    run(test)


def test_an_end_that_is_written_again_is_counted_once(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        taken = await started(installation)
        await installation.store.finish(taken, FAILURE)
        before = await installation.usage()
        await installation.store.finish(taken, FAILURE)  # the answer to the first was lost
        assert await installation.usage() == before
        assert before["tiny@1"].jobs_failed == 1

    run(test)


def test_what_a_former_owner_writes_is_not_counted(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        taken = await started(installation)
        installation.ago(taken.step_id, lease_expires_at=1)
        assert await installation.store.rescue_expired(lambda _: LOST) is not None
        before = await installation.usage()
        with pytest.raises(Stale):
            await installation.store.finish(taken, SUCCESS)
        assert await installation.usage() == before

    run(test)


def test_a_rescued_step_ran_until_its_lease_ended(run: Callable[[Test], None]) -> None:
    """Its runner ended then, however late the rescuer looks."""

    async def test(installation: Installation) -> None:
        taken = await started(installation)
        installation.ago(taken.step_id, attempt_started_at=1000, lease_expires_at=900)
        await installation.store.rescue_expired(lambda _: LOST)
        used = (await installation.usage())["tiny@1"]
        assert used.run_seconds == near(100)
        assert (used.jobs_failed, used.wait_seconds) == (1, near(30))

    run(test)


def test_every_execution_of_a_step_is_counted(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        first = await started(installation)
        await installation.store.add_artifact(first, picture(), note())
        await installation.store.finish(first, AGAIN)
        used = (await installation.usage())["tiny@1"]
        assert (used.run_seconds, used.wait_seconds) == (near(10), near(30))
        assert (used.jobs_succeeded, used.pictures) == (0, 0)  # nothing has ended yet
        second = await claim(installation)
        await installation.store.commit_running(second, [])
        installation.ago(second.step_id, run_at=50, claimed_at=20, attempt_started_at=10)
        await installation.store.finish(second, replace(SUCCESS, attempt=2))
        used = (await installation.usage())["tiny@1"]
        assert (used.run_seconds, used.wait_seconds) == (near(20), near(60))
        assert (used.jobs_succeeded, used.pictures) == (1, 1)

    run(test)


def test_the_pause_before_another_try_is_waiting(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        taken = await started(installation)
        await installation.store.finish(taken, replace(AGAIN, delay_s=60.0))
        assert (await installation.usage())["tiny@1"].wait_seconds == near(90)

    run(test)


def test_an_execution_without_go_ran_for_no_time(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        _, taken = await claimed_job(installation)
        installation.ago(taken.step_id, run_at=50, claimed_at=20)
        await installation.store.finish(taken, replace(AGAIN, attempt=0, losses=1))
        used = (await installation.usage())["tiny@1"]
        assert (used.run_seconds, used.wait_seconds) == (0, near(30))

    run(test)


def test_a_job_that_is_cancelled_while_it_waits_has_waited(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        job = await installation.create(Work(), Work(name="upscale"))
        first, second = await installation.steps(job)
        installation.ago(first["id"], run_at=40)
        installation.ago(second["id"], run_at=40)  # of its turn: it never came
        await installation.cancel(job)
        await installation.cancel(job)
        used = (await installation.usage())["tiny@1"]
        assert (used.jobs_cancelled, used.wait_seconds, used.run_seconds) == (1, near(40), 0)

    run(test)


def test_a_step_that_no_worker_claimed_has_waited(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        job = await installation.create(Work())
        (step,) = await installation.steps(job)
        installation.ago(step["id"], run_at=100)

        def decide(orphan: OrphanedStep) -> AttemptResult:
            return replace(ended(StepState.FAILED, Reason.TIMEOUT), attempt=orphan.attempt)

        assert await installation.store.rescue_unclaimed(decide, 50.0) is not None
        used = (await installation.usage())["tiny@1"]
        assert (used.jobs_failed, used.wait_seconds, used.run_seconds) == (1, near(100), 0)

    run(test)


def test_a_chain_counts_under_the_model_of_each_step(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        taken = await started(installation, Work(), Work(name="upscale", needs_model=False))
        await installation.store.add_artifact(taken, picture(), note())
        await installation.store.finish(taken, SUCCESS)
        second = await claim(installation)
        await installation.store.commit_running(second, [])
        installation.ago(second.step_id, attempt_started_at=5)
        await installation.store.add_artifact(second, picture(key="large"), note())
        await installation.store.finish(second, SUCCESS)
        used = await installation.usage()
        assert {model: row.pictures for model, row in used.items()} == {"tiny@1": 1, NO_MODEL: 1}
        assert {model: row.jobs_succeeded for model, row in used.items()} == {
            "tiny@1": 1,
            NO_MODEL: 0,
        }
        assert used[NO_MODEL].run_seconds == near(5)

    run(test)


def test_users_and_days_have_rows_of_their_own(run: Callable[[Test], None]) -> None:
    async def test(installation: Installation) -> None:
        with psycopg.connect(installation.url, autocommit=True) as connection:
            connection.execute(
                'INSERT INTO usage (day, "user", model, pictures) VALUES '
                "('2026-01-01', 'ada', 'tiny@1', 1), ('2026-01-01', 'bob', 'tiny@1', 2),"
                "('2026-01-02', 'ada', 'tiny@2', 3), ('2026-01-02', 'ada', 'tin@1', 4)"
            )

        async def pictures(**filters: Any) -> list[int]:
            usual: dict[str, Any] = {
                "since": datetime(2026, 1, 1).date(),
                "until": datetime(2026, 1, 2).date(),
                "limit": 10,
            }
            rows = await installation.database.transaction(usage.page, **(usual | filters))
            return [row.pictures for row in rows]

        assert await pictures() == [1, 2, 4, 3]
        assert await pictures(user="ada") == [1, 4, 3]
        assert await pictures(until=datetime(2026, 1, 1).date()) == [1, 2]
        assert await pictures(since=datetime(2026, 1, 2).date()) == [4, 3]
        assert await pictures(model="tiny") == [1, 2, 3]
        assert await pictures(model="tiny@2") == [3]
        assert await pictures(limit=2) == [1, 2]
        after = (datetime(2026, 1, 1).date(), "bob", "tiny@1")
        assert await pictures(after=after) == [4, 3]

    run(test)
