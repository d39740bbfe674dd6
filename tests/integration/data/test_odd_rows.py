"""Rows whose JSON no release of ours has written: they end no worker, and hold up no other step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.database import execute
from tests.support.memory_store import Work
from tests.support.odd_json import cases
from tests.support.stores import (
    AGAIN,
    FAILURE,
    SUCCESS,
    InPostgres,
    claim,
    claim_request,
    picture,
)

from shared.db.engine import Database
from shared.db.events import append_events
from shared.db.waiting import read_line
from shared.db.workers import Slot, Worker, live_workers, register_exclusive
from shared.events import Code, NewEvent
from supervisor.execution.run_spec import UnreadableStep, run_spec, upcoming_model

# A step that a worker can run.
WORK = Work(
    params={"prompt": "x", "width": 64, "height": 64, "steps": 1, "guidance": 1.0, "count": 1},
    preset={"name": "cpu", "version": 1, "device": "cpu", "dtype": "float32", "threads": 1},
)
HOOK = '{"url": "http://127.0.0.1:9/", "events": ["start", "artifact", "end"]}'
STARTED = NewEvent(code=Code.STEP_START, message="started", payload={"step": "generate"})
PROGRESS = NewEvent(code=Code.PROGRESS, message="half", item_index=0, payload={"progress": 0.5})
WRITTEN = NewEvent(code=Code.ARTIFACT_WRITTEN, message="written", item_index=0)

Test = Callable[[InPostgres, Callable[[], None]], Awaitable[None]]


def folder(model: object) -> Path:
    return Path("/models")


def run(url: str, test: Test, *tables: str) -> None:
    """Run `test` for each odd value of each column, with what writes the value into all rows."""

    async def main() -> None:
        database = Database(url, application="odd rows")
        try:
            for table, column, value in cases(*tables):
                execute(url, "DELETE FROM jobs")
                execute(url, "DELETE FROM models")
                subject = InPostgres(database, url)

                def spoil(table: str = table, column: str = column, value: str = value) -> None:
                    execute(url, f"UPDATE {table} SET {column} = %s", value)

                try:
                    await test(subject, spoil)
                except Exception as error:
                    raise AssertionError(f"{table}.{column} = {value}") from error
        finally:
            await database.close()

    anyio.run(main)


async def create(subject: InPostgres, url: str) -> UUID:
    """A job with a receiver, and with an event that says how far it is."""
    job = await subject.create(WORK)
    execute(url, "UPDATE jobs SET webhook = %s WHERE id = %s", HOOK, job)
    await subject.database.transaction(append_events, job, [PROGRESS])
    return job


def test_a_step_is_claimed_and_ended_whatever_stands_in_its_rows(database_url: str) -> None:
    async def test(subject: InPostgres, spoil: Callable[[], None]) -> None:
        job = await create(subject, database_url)
        spoil()
        for upcoming in await subject.store.due_next(claim_request(subject), limit=1):
            upcoming_model(upcoming, folder)
        taken = await claim(subject)
        assert taken.job_id == job
        await subject.store.commit_running(taken, [STARTED])
        await subject.store.record(taken, None, [PROGRESS])
        await subject.store.add_artifact(taken, picture(), WRITTEN)
        spoil()
        await subject.store.finish(taken, AGAIN)
        again = await claim(subject)
        await subject.store.commit_running(again, [STARTED])
        spoil()
        await subject.store.finish(again, FAILURE)
        assert (await subject.job(job))["status"] == "failed"

    run(database_url, test, "jobs", "steps", "events", "deliveries", "models")


def test_a_step_that_succeeds_is_a_success_whatever_its_figures(database_url: str) -> None:
    async def test(subject: InPostgres, spoil: Callable[[], None]) -> None:
        job = await create(subject, database_url)
        spoil()
        taken = await claim(subject)
        await subject.store.commit_running(taken, [STARTED])
        await subject.store.finish(taken, SUCCESS)
        assert (await subject.job(job))["status"] == "succeeded"

    run(database_url, test, "steps")


def test_a_step_that_was_lost_is_ended_whatever_stands_in_its_rows(database_url: str) -> None:
    async def test(subject: InPostgres, spoil: Callable[[], None]) -> None:
        job = await create(subject, database_url)
        await claim(subject)
        spoil()
        execute(database_url, "UPDATE steps SET lease_expires_at = now() - interval '1 s'")
        assert await subject.store.rescue_expired(lambda orphan: FAILURE) is not None
        assert (await subject.job(job))["status"] == "failed"

    run(database_url, test, "events")


@pytest.mark.parametrize("column", ["params", "preset", "inputs"])
def test_a_step_that_cannot_be_read_is_refused_before_a_runner_starts(
    database_url: str, column: str
) -> None:
    async def main() -> None:
        database = Database(database_url, application="odd rows")
        try:
            subject = InPostgres(database, database_url)
            await create(subject, database_url)
            run_spec(await claim(subject), folder)
            await create(subject, database_url)
            spoil = f"UPDATE steps SET {column} = '7' WHERE state = 'queued'"
            execute(database_url, spoil)
            with pytest.raises(UnreadableStep, match=f"cannot be run: {column}"):
                run_spec(await claim(subject), folder)
        finally:
            await database.close()

    anyio.run(main)


def test_one_odd_step_does_not_hide_the_line_of_those_that_wait(database_url: str) -> None:
    async def test(subject: InPostgres, spoil: Callable[[], None]) -> None:
        await create(subject, database_url)
        spoil()
        sound = await create(subject, database_url)
        line = await subject.database.transaction(read_line, max_passed_s=600.0)
        assert [step.job_id for step in line.waiting][-1] == sound
        assert line.waiting[-1].work == 64 * 64

    run(database_url, test, "steps")


def test_an_odd_row_of_a_worker_hides_no_other_and_keeps_none_from_registering(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def worker() -> Worker:
        slot = Slot(id="0", device="cpu", device_class="cpu", capacity_bytes=1, state="free")
        return Worker(
            id=uuid4(), host="here", version="1", queues=["default"], slots=[slot], models={}
        )

    async def test(subject: InPostgres, spoil: Callable[[], None]) -> None:
        execute(database_url, "DELETE FROM workers")
        odd, sound = worker(), worker()
        await subject.database.transaction(register_exclusive, odd, devices=["GPU-1"])
        spoil()
        owners = await subject.database.transaction(register_exclusive, sound, devices=["GPU-1"])
        live = await subject.database.transaction(live_workers)
        assert (owners, live[-1].id) == ([], sound.id)
        if len(live) == 1:
            assert f"worker {odd.id} counts as none" in caplog.text

    run(database_url, test, "workers")
    assert caplog.text.count("counts as none") > 20
