"""An installation of 0.1.0 is upgraded with its data in it, and brought back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from alembic import command
from migrations import upgrade as migration
from psycopg.rows import dict_row
from tests.integration.data.test_schema import empty_database

from shared.db import artifacts, jobs
from shared.db.engine import Database
from shared.db.step_store import PostgresStepStore
from shared.states import Reason, Status
from shared.step_store import ClaimRequest

# 0.1.0 was the number of all versions before the first release that was cut. This is the schema
# that the rule "a release only adds" began with (docs/migrations.md); each later one is passed on
# the way.
OF_0_1_0 = "0002"

MODEL, DEAD_WORKER = uuid4(), uuid4()
TABLES = ("models", "workers", "jobs", "steps", "events", "artifacts")
NEEDS = {"queue": "default", "device": "cpu", "vram_bytes": 0, "timeout_s": 600.0}
ENDS = {Status.SUCCEEDED: Reason.COMPLETED, Status.FAILED: Reason.OOM}

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    """A database with the schema of 0.1.0, and in it what 0.1.0 wrote."""
    with empty_database(database_url) as made:
        found = made.replace("postgresql+psycopg", "postgresql")
        command.upgrade(migration.alembic_config(found), OF_0_1_0)
        fill(found)
        yield found


def fill(url: str) -> None:
    """A job in each status; the running one belongs to a worker that is gone."""
    with psycopg.connect(url) as connection:
        insert(connection, "models", id=MODEL, name="demo", version="1", kind="sd",
               checkpoint_sha256="a" * 64, descriptor="{}", parameters_schema="{}",
               capabilities='["generate"]')  # fmt: skip
        insert(connection, "workers", id=DEAD_WORKER, host="old", version="0.1.0",
               queues='["default"]', slots="[]", models="[]")  # fmt: skip
        for status in Status:
            fill_job(connection, status)


def fill_job(connection: psycopg.Connection[Any], status: Status) -> None:
    job, step = uuid4(), uuid4()
    ended = {"reason": ENDS.get(status, Reason.CANCELLED)} if status in _ENDED else {}
    insert(connection, "jobs", id=job, type="generate", user="ada", status=status,
           request='{"prompt": "a red apple"}', count=1, correlation_id=f"of {status}",
           key_hash=f"key of {status}", fingerprint="f", event_seq=1, **ended)  # fmt: skip
    owner = {"lease_owner": DEAD_WORKER} if status == Status.RUNNING else {}
    insert(connection, "steps", id=step, job_id=job, position=0, name="generate", type="generate",
           params='{"prompt": "a red apple"}', preset='{"name": "cpu"}', model_id=MODEL,
           checkpoint_sha256="a" * 64, state=status, **NEEDS, **ended, **owner)  # fmt: skip
    insert(connection, "events", job_id=job, seq=1, step_id=step, level="INFO",
           code="job.created", message="accepted", payload="{}")  # fmt: skip
    if status == Status.SUCCEEDED:
        insert(connection, "artifacts", id=uuid4(), job_id=job, step_id=step, step="generate",
               item_index=0, format="png", width=64, height=64, seed=7, s3_key=f"jobs/{job}/0.png",
               sha256="b" * 64, size_bytes=4096)  # fmt: skip


_ENDED = {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}


def insert(connection: psycopg.Connection[Any], table: str, **columns: Any) -> None:
    """One row; a row that has a reason has ended, and one with an owner has a lease."""
    moments = {"finished_at": "reason", "lease_expires_at": "lease_owner"}
    now = [column for column, given in moments.items() if columns.get(given)]
    names = ", ".join(f'"{name}"' for name in (*columns, *now))
    values = ", ".join([*("%s" for _ in columns), *("now()" for _ in now)])
    statement = f"INSERT INTO {table} ({names}) VALUES ({values})"
    connection.execute(statement.encode(), tuple(map(_plain, columns.values())))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def rows(url: str, columns: dict[str, set[str]] | None = None) -> Rows:
    """Every row of every table; of `columns` alone where they are given."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        found = {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2".encode()).fetchall()
            for table in TABLES
        }
    if columns is None:
        return found
    return {
        table: [{name: row[name] for name in columns[table]} for row in each]
        for table, each in found.items()
    }


def columns_of(found: Rows) -> dict[str, set[str]]:
    return {table: set(each[0]) for table, each in found.items()}


def test_an_upgrade_keeps_every_value_of_every_row(url: str) -> None:
    before = rows(url)
    migration.upgrade(url)
    assert rows(url, columns_of(before)) == before
    migration.check(url)


def test_a_downgrade_brings_the_same_rows_back_and_an_upgrade_works_again(url: str) -> None:
    before = rows(url)
    migration.upgrade(url)
    command.downgrade(migration.alembic_config(url), OF_0_1_0)
    assert rows(url) == before
    migration.upgrade(url)
    assert rows(url, columns_of(before)) == before


def test_a_downgrade_takes_away_what_the_old_schema_cannot_hold_and_no_more(url: str) -> None:
    """A job whose step needs no model, and a picture in a format that 0.1.0 does not know."""
    before = rows(url)
    migration.upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE steps SET model_id = NULL, checkpoint_sha256 = NULL WHERE state = 'queued'"
        )
        connection.execute("UPDATE artifacts SET format = 'webp'")
    command.downgrade(migration.alembic_config(url), OF_0_1_0)
    after = rows(url)
    assert after["artifacts"] == []
    assert after["jobs"] == [row for row in before["jobs"] if row["status"] != "queued"]
    assert after["models"] == before["models"]


def test_this_release_reads_what_0_1_0_wrote_and_runs_what_it_accepted(url: str) -> None:
    migration.upgrade(url)

    async def main() -> tuple[list[Status], list[int], UUID | None, UUID]:
        database = Database(url)
        try:
            page = await database.transaction(jobs.page, user="ada", limit=10)
            of = {job.status: job.id for job in page}
            pictures = await database.transaction(artifacts.list_artifacts, of[Status.SUCCEEDED])
            claim = await PostgresStepStore(database).claim(_request())
            return (
                sorted(of), [each.seed for each in pictures],
                claim.job_id if claim else None, of[Status.QUEUED],
            )  # fmt: skip
        finally:
            await database.close()

    statuses, seeds, claimed, queued = anyio.run(main)
    assert statuses == sorted(Status)
    assert seeds == [7]
    assert claimed == queued


def _request() -> ClaimRequest:
    return ClaimRequest(
        worker_id=uuid4(), slot="cpu-0", queues=("default",), device="cpu", capacity_bytes=0,
        models=(MODEL,), lease_s=60.0,
    )  # fmt: skip
