"""Rows whose JSON or moments no release of ours has written: they end no worker, and hold up no
other step."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.database import execute
from tests.support.memory_store import Work
from tests.support.odd_json import cases
from tests.support.odd_moments import MOMENTS, columns, setting
from tests.support.stores import (
    AGAIN,
    FAILURE,
    SUCCESS,
    InPostgres,
    claim,
    claim_request,
    picture,
)

from shared.db import retention
from shared.db.engine import Database
from shared.db.events import append_events
from shared.db.jobs import run_seconds
from shared.db.waiting import read_line
from shared.db.workers import Slot, Worker, live_workers, register_exclusive, upsert
from shared.events import Code, NewEvent
from shared.step_store import AttemptResult, OrphanedStep, Stale
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


def worker() -> Worker:
    slot = Slot(id="0", device="cpu", device_class="cpu", capacity_bytes=1, state="free")
    return Worker(id=uuid4(), host="here", version="1", queues=["default"], slots=[slot], models={})


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


# Moments ------------------------------------------------------------------------------------------


def run_moments(url: str, test: Test, *tables: str) -> None:
    """As `run`, with odd moments."""

    async def main() -> None:
        database = Database(url, application="odd rows")
        try:
            for (table, column), moment in product(columns(*tables), MOMENTS):
                for each in ("jobs", "models", "shares", "usage", "run_times"):
                    execute(url, f"DELETE FROM {each}")
                subject = InPostgres(database, url)

                def spoil(table: str = table, column: str = column, moment: str = moment) -> None:
                    execute(url, setting(table, column), moment)

                try:
                    await test(subject, spoil)
                except Exception as error:
                    raise AssertionError(f"{table}.{column} = {moment}") from error
        finally:
            await database.close()

    anyio.run(main)


def longest_span(url: str) -> float:
    """Of those that a step's end has added to sums and samples, which outlive it."""
    queries = (
        "SELECT max(greatest(virtual_s, start_s, mean_s)) FROM shares",
        "SELECT max(greatest(run_seconds, wait_seconds)) FROM usage",
        "SELECT max(s) FROM run_times, unnest(start_seconds || seconds) AS s",
    )
    found = [execute(url, query) for query in queries]
    return max(float(span) for ((span,),) in found if span is not None)


def test_a_step_is_claimed_and_ended_whatever_moments_its_rows_have(database_url: str) -> None:
    async def test(subject: InPostgres, spoil: Callable[[], None]) -> None:
        for _ in range(2):
            await create(subject, database_url)
        spoil()
        # What is due later than now waits, and keeps nothing from being claimed.
        execute(database_url, "UPDATE steps SET run_at = now() WHERE run_at > now()")
        execute(database_url, "UPDATE steps SET vram_wait_since = now() - interval '1 s'")
        spoil()
        execute(database_url, "UPDATE steps SET run_at = now() WHERE run_at > now()")
        await subject.store.due_next(claim_request(subject), limit=1)
        taken = await claim(subject)
        assert math.isfinite(taken.queued_s)
        assert math.isfinite(taken.vram_waited_s)
        await subject.store.commit_running(taken, [STARTED])
        await subject.store.add_artifact(taken, picture(), WRITTEN)
        spoil()
        other = await subject.store.claim(claim_request(subject))
        await subject.store.finish(taken, SUCCESS)
        assert (await subject.job(taken.job_id))["status"] == "succeeded"
        if other is not None:
            spoil()
            execute(database_url, "UPDATE steps SET cancel_requested_at = NULL")
            await subject.store.finish(other, AGAIN)
        assert longest_span(database_url) < 24 * 3600
        spoil()
        assert math.isfinite(await subject.database.transaction(run_seconds, taken.job_id))
        line = await subject.database.transaction(read_line, max_passed_s=600.0)
        assert all(math.isfinite(step.due_in_s) for step in line.waiting)

    run_moments(database_url, test, "jobs", "steps", "events", "deliveries")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_lease_that_no_worker_takes_ends_all_the_same(database_url: str, moment: str) -> None:
    async def main() -> None:
        database = Database(database_url, application="odd rows")
        try:
            subject = InPostgres(database, database_url)
            job = await create(subject, database_url)
            await claim(subject)
            execute(database_url, setting("steps", "lease_expires_at"), moment)
            rescued = await subject.store.rescue_expired(lambda orphan: FAILURE)
            if rescued is None:  # its owner may live, and has time to renew it
                ((left,),) = execute(
                    database_url, "SELECT lease_expires_at - now() < '1 hour' FROM steps"
                )
                assert left
                execute(database_url, "UPDATE steps SET lease_expires_at = now()")
                assert await subject.store.rescue_expired(lambda orphan: FAILURE)
            assert (await subject.job(job))["status"] == "failed"
        finally:
            await database.close()

    anyio.run(main)


# How far PostgreSQL's clock was ahead when it was set back.
SET_BACK = pytest.mark.parametrize("ahead", ["40 minutes", "3 days", "300 days", "30 years"])


@SET_BACK
def test_a_lease_of_a_clock_that_was_ahead_ends_soon(database_url: str, ahead: str) -> None:
    async def test(subject: InPostgres) -> None:
        job = await create(subject, database_url)
        await claim(subject)
        execute(database_url, "UPDATE steps SET lease_expires_at = now() + %s::interval", ahead)
        assert await subject.store.rescue_expired(lambda orphan: FAILURE) is None
        ((left,),) = execute(
            database_url, "SELECT lease_expires_at - now() < '11 minutes' FROM steps"
        )
        assert left
        assert (await subject.job(job))["status"] == "queued"

    in_postgres(database_url, test)


@SET_BACK
def test_a_step_of_a_clock_that_was_ahead_is_claimed(database_url: str, ahead: str) -> None:
    async def test(subject: InPostgres) -> None:
        job = await create(subject, database_url)
        execute(database_url, "UPDATE steps SET run_at = now() + %s::interval", ahead)
        assert await subject.store.claim(claim_request(subject)) is None
        assert await subject.store.rescue_unclaimed(lambda orphan: FAILURE, 60.0) is None
        assert (await claim(subject)).job_id == job

    in_postgres(database_url, test)


@pytest.mark.parametrize("pause", ["60 seconds", "infinity"])
def test_a_step_that_pauses_goes_on_to(database_url: str, pause: str) -> None:
    """The longest pause before another try, and what a hand writes to hold a step back."""

    async def test(subject: InPostgres) -> None:
        await create(subject, database_url)
        moment = "'infinity'::timestamptz" if pause == "infinity" else f"now() + '{pause}'"
        execute(database_url, f"UPDATE steps SET run_at = {moment}")
        before = execute(database_url, "SELECT run_at::text FROM steps")
        assert await subject.store.rescue_unclaimed(lambda orphan: FAILURE, 60.0) is None
        assert execute(database_url, "SELECT run_at::text FROM steps") == before

    in_postgres(database_url, test)


# The epoch is full at each of the transactions that raise it, one after the other.
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("epoch", 2**63 - 1 - left) for left in range(4)),
        ("attempt", 2**31 - 1),
        ("losses", 2**31 - 1),
    ],
)
def test_a_counter_that_is_full_ends_no_worker(database_url: str, column: str, value: int) -> None:
    def decide(orphan: OrphanedStep) -> AttemptResult:
        return replace(AGAIN, attempt=orphan.attempt, losses=orphan.losses + 1)

    async def test(subject: InPostgres) -> None:
        job = await create(subject, database_url)
        execute(database_url, f"UPDATE steps SET {column} = {value}")
        unheard = await claim(subject)
        assert await subject.store.release_unacknowledged(unheard.lease_owner, set()) == 1
        lost = await claim(subject)
        await subject.store.commit_running(lost, [STARTED])
        execute(database_url, "UPDATE steps SET lease_expires_at = now() - interval '1 s'")
        assert await subject.store.rescue_expired(decide)
        taken = await claim(subject)
        for former in (unheard, lost):
            assert former.epoch != taken.epoch
            with pytest.raises(Stale):
                await subject.store.renew(former, 60.0)
        end = replace(FAILURE, attempt=taken.attempt + 1, losses=taken.losses + 1)
        await subject.store.finish(taken, end)
        assert (await subject.job(job))["status"] == "failed"

    in_postgres(database_url, test)


def in_postgres(url: str, test: Callable[[InPostgres], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database(url, application="odd rows")
        try:
            await test(InPostgres(database, url))
        finally:
            await database.close()

    anyio.run(main)


def test_a_worker_that_never_ages_holds_no_device_and_is_pruned(database_url: str) -> None:
    async def main() -> None:
        database = Database(database_url, application="odd rows")
        try:
            await database.transaction(upsert, worker())
            execute(database_url, "UPDATE workers SET heartbeat_at = 'infinity'")
            owners = await database.transaction(register_exclusive, worker(), devices=["0"])
            assert owners == []
            assert await database.transaction(retention.delete_workers) == 1
        finally:
            await database.close()

    anyio.run(main)
