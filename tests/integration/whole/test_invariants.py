"""The checker of the crash tests finds one planted fault of each kind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from tests.support.api_harness import settings_of
from tests.support.crash_runner import OVERLAPS
from tests.support.invariants import Settled
from tests.support.worker_process import until

from shared.linux.child import MARKER
from shared.object_store import open_store
from supervisor.processes.worker_mark import worker_mark

DATA = b"a picture"
SHA256 = hashlib.sha256(DATA).hexdigest()


class System:
    """One job that succeeded, with one picture: without findings until a test plants a fault."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        # Its own bucket: other tests leave objects in theirs.
        self.settings = settings_of(environment, s3_bucket="invariants")
        self.store = open_store(self.settings)
        anyio.run(self.store.ensure_bucket)
        self.folder = folder
        self.job, self.step, self.model = str(uuid4()), str(uuid4()), uuid4()
        self.key = f"dreamforge/default/jobs/{self.job}/generate/1_0_1x1_7.png"
        self.sql(
            "INSERT INTO models (id, name, version, kind, checkpoint_sha256, descriptor,"
            " parameters_schema, capabilities) VALUES (%s, 'm', '1', 'sd', '', '{}', '{}', '[]')",
            self.model,
        )
        self.add_job(self.job)
        self.sql(
            "INSERT INTO steps (id, job_id, position, name, type, params, device, preset,"
            " vram_bytes, timeout_s, model_id, checkpoint_sha256, state, reason, finished_at)"
            " VALUES (%s, %s, 0, 'generate', 'generate', '{}', 'cpu', '{}', 0, 1, %s, '',"
            " 'succeeded', 'completed', now())",
            self.step, self.job, self.model,
        )  # fmt: skip
        self.add_artifact()
        anyio.run(self.put, self.key, DATA)

    def add_job(self, job: str) -> None:
        self.sql(
            "INSERT INTO jobs (id, type, status, reason, request, count, correlation_id,"
            " event_seq, finished_at)"
            " VALUES (%s, 'generate', 'succeeded', 'completed', '{}', 1, 'c', 2, now())",
            job,
        )
        for seq, code in ((1, "job.created"), (2, "job.finish")):
            self.add_event(job, seq, code)

    def add_event(self, job: str, seq: int, code: str) -> None:
        self.sql(
            "INSERT INTO events (job_id, seq, level, code, message)"
            " VALUES (%s, %s, 'INFO', %s, '')",
            job, seq, code,
        )  # fmt: skip

    def add_artifact(self, item: int = 0, key: str | None = None) -> None:
        self.sql(
            "INSERT INTO artifacts (id, job_id, step_id, step, item_index, format, width, height,"
            " seed, s3_key, sha256, size_bytes)"
            " VALUES (%s, %s, %s, 'generate', %s, 'png', 1, 1, 7, %s, %s, %s)",
            uuid4(), self.job, self.step, item, key or self.key, SHA256, len(DATA),
        )  # fmt: skip

    async def put(self, key: str, data: bytes) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        await self.store.put(key, data, content_type="image/png", sha256=sha256)

    def sql(self, statement: str, *values: Any) -> None:
        url = self.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    @property
    def settled(self) -> Settled:
        return Settled(
            accepted=[self.job],
            settings=self.settings,
            store=self.store,
            lock_dir=self.folder / "locks",
            overlaps_dir=self.folder,
        )

    def finding(self) -> str:
        """The only finding."""
        (finding,) = self.settled.findings()
        return finding


@pytest.fixture
def system(stack_environment: dict[str, str], tmp_path: Path) -> Iterator[System]:
    one = System(stack_environment, tmp_path)
    yield one
    anyio.run(one.store.delete, one.key)
    one.store.close()


def test_a_system_that_is_as_it_should_be_has_no_findings(system: System) -> None:
    assert system.settled.findings() == []


def test_a_job_that_was_accepted_and_has_no_row_is_lost(system: System) -> None:
    missing = str(uuid4())
    assert replace(system.settled, accepted=[system.job, missing]).findings() == [
        f"lost: job {missing} was accepted and has no row"
    ]


def test_a_job_that_does_not_end_is_lost(system: System) -> None:
    system.sql("UPDATE jobs SET status = 'queued', reason = NULL, finished_at = NULL")
    assert system.finding() == f"lost: job {system.job} is queued"


def test_a_step_that_still_has_an_owner_is_lost(system: System) -> None:
    system.sql(
        "UPDATE steps SET state = 'running', reason = NULL, finished_at = NULL,"
        " lease_owner = %s, lease_expires_at = now()",
        UUID(int=1),
    )
    assert f"lost: step {system.step} is running" in system.finding()


def test_a_picture_that_was_promised_and_is_not_there_is_lost(system: System) -> None:
    system.sql("DELETE FROM artifacts")
    assert system.finding() == f"lost: step {system.step} has 0 of 1 pictures"


def test_a_job_that_nobody_asked_for_is_doubled(system: System) -> None:
    second = str(uuid4())
    system.add_job(second)
    assert system.finding() == f"doubled: job {second} was accepted by nobody"


def test_a_second_verdict_is_doubled(system: System) -> None:
    system.add_event(system.job, 3, "job.finish")
    system.sql("UPDATE jobs SET event_seq = 3")
    assert "was created 1 and ended 2 times" in system.finding()


def test_a_gap_in_the_events_is_found(system: System) -> None:
    system.sql("UPDATE events SET seq = 3 WHERE seq = 2")
    system.sql("UPDATE jobs SET event_seq = 3")
    assert system.finding() == f"events: job {system.job} has 2 from 1 to 3 of 3"


def test_a_row_without_its_object_dangles(system: System) -> None:
    anyio.run(system.store.delete, system.key)
    assert system.finding() == f"dangling: {system.key} has a row and no object"


def test_a_row_with_another_object_dangles(system: System) -> None:
    anyio.run(system.put, system.key, b"another")
    assert "is not the one of its row" in system.finding()


def test_an_object_without_a_row_is_counted_apart(system: System) -> None:
    system.sql("DELETE FROM artifacts")
    assert system.settled.unnamed_objects() == [system.key]


def test_more_tries_than_there_may_be_are_found(system: System) -> None:
    system.sql("UPDATE steps SET attempt = %s", system.settings.max_attempts + 1)
    assert "unbounded" in system.finding()


def test_two_runners_of_one_step_overlap(system: System) -> None:
    (system.folder / OVERLAPS).write_text(f"{system.step}\n")
    assert system.finding() == f"overlap: step {system.step} had two runners at once"


@contextmanager
def runner_of_nobody(lock_dir: Path) -> Iterator[int]:
    mark = f"{worker_mark(lock_dir, UUID(int=1))}:1"
    code = "print(flush=True); import time; time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {MARKER: mark}, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_runner_that_outlived_its_worker_is_an_orphan(system: System) -> None:
    with runner_of_nobody(system.folder / "locks") as pid:
        assert system.finding() == f"orphan: process {pid} of a worker that is gone"
        settings = system.settled.settings.model_copy(update={"runner_start": "spawn"})
        living = replace(system.settled, living_workers=[os.getpid()], settings=settings)
        assert living.findings() == []
        with runner_of_nobody(system.folder / "locks") as second:
            (finding,) = living.findings()
            assert finding.startswith(f"orphan: worker {os.getpid()} rests and has 2 runners")
            assert str(second) in finding
    until(lambda: system.settled.findings() == [], "it is gone")
