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
from tests.support.database import execute
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
        self.url = url

    async def usage(self) -> dict[str, Usage]:
        """By model."""
        return {row.model: row for row in await self.rows_of()}

    async def by_tag(
        self, key: str, value: str | None = None
    ) -> dict[tuple[str | None, str], Usage]:
        """By value and model."""
        rows = await self.rows_of(tag=(key, value))
        assert {row.tag_key for row in rows} <= {key}
        return {(row.tag_value, row.model): row for row in rows}

    async def rows_of(self, **filters: Any) -> list[Usage]:
        today = datetime.now(UTC).date()
        day = timedelta(days=1)
        return await self.database.transaction(
            usage.page, since=today - day, until=today + day, limit=100, **filters
        )

    async def until_one_waits(self) -> None:
        """Until a statement on our connections waits for a lock."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'usage' AND wait_event_type = 'Lock'"
        )
        with anyio.fail_after(20):
            while execute(self.url, waiting) != [(1,)]:
                await anyio.sleep(0.01)

    def ago(self, step_id: UUID, **moments: float) -> None:
        """Put moments of a step so many seconds before now."""
        for name, seconds in moments.items():
            statement = f"UPDATE steps SET {name} = now() - %s * interval '1 s' WHERE id = %s"
            assert len(execute(self.url, f"{statement} RETURNING id", seconds, step_id)) == 1


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
        execute(
            installation.url,
            'INSERT INTO usage (day, "user", model, pictures) VALUES '
            "('2026-01-01', 'ada', 'tiny@1', 1), ('2026-01-01', 'bob', 'tiny@1', 2),"
            "('2026-01-02', 'ada', 'tiny@2', 3), ('2026-01-02', 'ada', 'tin@1', 4)",
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
        after = (datetime(2026, 1, 1).date(), "bob", "", "tiny@1")
        assert await pictures(after=after) == [4, 3]

    run(test)


# By tag -------------------------------------------------------------------------------------------


def amounts(used: Usage) -> Usage:
    return replace(used, tag_key=None, tag_value=None)


def test_a_job_counts_once_more_under_each_tag_that_is_counted_by(
    run: Callable[[Test], None],
) -> None:
    async def test(installation: Installation) -> None:
        await installation.create(
            Work(vram_bytes=1000),
            tags={"project": "shop", "customer": "7", "note": "a red apple"},
            usage_tags=["project", "customer"],
        )
        taken = await claim(installation)
        await installation.store.commit_running(taken, [])
        installation.ago(taken.step_id, run_at=50, claimed_at=20, attempt_started_at=10)
        await installation.store.add_artifact(taken, picture(), note())
        await installation.store.finish(taken, SUCCESS)
        await installation.store.finish(taken, SUCCESS)  # the answer to the first was lost
        (whole,) = (await installation.usage()).values()
        assert (whole.jobs_succeeded, whole.pictures, whole.run_seconds) == (1, 1, near(10))
        for key, value in (("project", "shop"), ("customer", "7")):
            by_value = await installation.by_tag(key)
            assert by_value.keys() == {(value, "tiny@1")}
            assert amounts(by_value[value, "tiny@1"]) == whole
        assert await installation.by_tag("note") == {}

    run(test)


def test_values_are_summed_apart_and_jobs_without_the_tag_are_in_no_sum(
    run: Callable[[Test], None],
) -> None:
    async def test(installation: Installation) -> None:
        for tags in ({"project": "shop"}, {"project": "web"}, {"project": "shop"}, {"project": ""}):
            job = await installation.create(Work(), tags=tags, usage_tags=["project"])
            await installation.cancel(job)
        await installation.cancel(await installation.create(Work(), tags={"project": "shop"}))
        by_value = await installation.by_tag("project")
        cancelled = {value: row.jobs_cancelled for (value, _), row in by_value.items()}
        assert cancelled == {"": 1, "shop": 2, "web": 1}
        assert (await installation.by_tag("project", "web")).keys() == {("web", "tiny@1")}
        assert (await installation.by_tag("project", "")).keys() == {("", "tiny@1")}
        assert (await installation.usage())["tiny@1"].jobs_cancelled == 5

    run(test)


def test_a_chain_counts_under_its_tag_with_the_model_of_each_step(
    run: Callable[[Test], None],
) -> None:
    async def test(installation: Installation) -> None:
        await installation.create(
            Work(),
            Work(name="upscale", needs_model=False),
            tags={"project": "shop"},
            usage_tags=["project"],
        )
        for key in ("small", "large"):
            taken = await claim(installation)
            await installation.store.commit_running(taken, [])
            await installation.store.add_artifact(taken, picture(key=key), note())
            await installation.store.finish(taken, SUCCESS)
        by_value = await installation.by_tag("project")
        facts = {model: (row.jobs_succeeded, row.pictures) for (_, model), row in by_value.items()}
        assert facts == {"tiny@1": (1, 1), NO_MODEL: (0, 1)}

    run(test)


def test_values_beyond_the_bound_share_one_sum(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bound a client would make a row with each job, kept for years."""
    monkeypatch.setattr(usage, "MAX_VALUES", 2)

    async def test(installation: Installation) -> None:
        for user in ("ada", "bob"):
            for order in ("1", "2", "3", "4", "1", "3"):
                job = await installation.create(
                    Work(user=user), tags={"order": order}, usage_tags=["order"]
                )
                await installation.cancel(job)
        rows = await installation.rows_of(tag=("order", None))
        counts = [(row.user, row.tag_value, row.jobs_cancelled) for row in rows]
        assert counts == [
            (user, value, count)
            for user in ("ada", "bob")
            for value, count in ((usage.OTHER_VALUES, 3), ("1", 2), ("2", 1))
        ]

    run(test)


def test_sums_of_several_tags_are_locked_in_the_order_of_their_keys(
    run: Callable[[Test], None],
) -> None:
    """In the order in which a job's tags are stored, two jobs could wait for each other."""
    tags = {"project": "shop", "customer": "7"}  # stored in this order: the shorter key first
    sum_of = "SELECT FROM tag_usage WHERE tag_key = %s FOR UPDATE NOWAIT"

    async def test(installation: Installation) -> None:
        first, second = [
            await installation.create(Work(), tags=tags, usage_tags=list(tags)) for _ in range(2)
        ]
        await installation.cancel(first)
        with (
            psycopg.connect(installation.url) as holder,
            psycopg.connect(installation.url) as other,
        ):
            assert holder.execute(sum_of, ["project"]).rowcount == 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(installation.cancel, second)
                await installation.until_one_waits()
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(sum_of, ["customer"])
                holder.rollback()
        for key, value in tags.items():
            by_value = await installation.by_tag(key)
            assert by_value[value, "tiny@1"].jobs_cancelled == 2

    run(test)
