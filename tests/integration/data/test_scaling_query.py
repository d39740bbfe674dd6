"""What KEDA asks PostgreSQL (`deploy/k3s-scale`), asked here: how many workers there should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from tests.support.scaling import query

CLASS_BYTES = 24_000_000_000
ROLE = "dreamforge_scaler"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """One transaction that is never committed; no step is there yet."""
    with psycopg.connect(database_url.replace("postgresql+psycopg", "postgresql")) as found:
        yield found
        found.rollback()


def step(connection: psycopg.Connection[Any], state: str, **other: Any) -> None:
    job = str(uuid4())
    connection.execute(
        "INSERT INTO jobs (id, type, status, request, count, correlation_id)"
        " VALUES (%s, 'generate', 'queued', '{}', 1, 'c')",
        (job,),
    )
    columns = {
        "id": str(uuid4()), "job_id": job, "position": 0, "name": "generate", "type": "generate",
        "params": "{}", "preset": "{}", "device": "cuda", "vram_bytes": CLASS_BYTES,
        "timeout_s": 600, "state": state,
    } | other  # fmt: skip
    if state == "running":
        columns |= {"lease_owner": str(uuid4()), "lease_expires_at": "2026-01-01"}
    if state == "succeeded":
        columns |= {"reason": "completed", "finished_at": "2026-01-01"}
    statement = sql.SQL("INSERT INTO steps ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() for _ in columns),
    )
    connection.execute(statement, list(columns.values()))


def workers(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute(query().encode()).fetchone()
    assert row is not None
    return float(row[0])


def test_nothing_to_do_needs_no_worker(connection: psycopg.Connection[Any]) -> None:
    step(connection, "succeeded")
    step(connection, "queued", device="cpu")
    step(connection, "queued", vram_bytes=CLASS_BYTES + 1)
    assert workers(connection) == 0


def test_a_step_that_waits_needs_one(connection: psycopg.Connection[Any]) -> None:
    step(connection, "queued", vram_bytes=0)
    assert workers(connection) == 1


def test_a_worker_for_four_steps_and_for_each_that_runs(
    connection: psycopg.Connection[Any],
) -> None:
    for _ in range(5):
        step(connection, "queued")
    assert workers(connection) == 2
    for _ in range(3):
        step(connection, "running")
    assert workers(connection) == 3
    connection.execute(
        "DELETE FROM jobs WHERE id IN (SELECT job_id FROM steps WHERE state = 'queued')"
    )
    assert workers(connection) == 3  # none of those that run is asked to go


def test_a_role_that_reads_steps_may_ask_and_see_nothing_else(
    connection: psycopg.Connection[Any],
) -> None:
    connection.execute(f"CREATE ROLE {ROLE}".encode())
    connection.execute(
        f"GRANT SELECT (state, device, vram_bytes, lease_owner) ON steps TO {ROLE}".encode()
    )
    connection.execute(f"SET LOCAL ROLE {ROLE}".encode())
    assert workers(connection) == 0
    for statement in ("SELECT params FROM steps", "SELECT 1 FROM jobs", "DELETE FROM steps"):
        connection.execute("SAVEPOINT before")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
        connection.execute("ROLLBACK TO before")


def test_what_is_read_is_bounded_by_indexes(connection: psycopg.Connection[Any]) -> None:
    """Of many steps few wait: which index finds them is PostgreSQL's choice."""
    connection.execute(
        "INSERT INTO jobs (id, type, status, request, count, correlation_id)"
        " SELECT gen_random_uuid(), 'generate', 'queued', '{}', 1, 'c'"
        " FROM generate_series(1, 3000)"
    )
    connection.execute(
        "INSERT INTO steps (id, job_id, position, name, type, params, preset, device, vram_bytes,"
        " timeout_s, state, reason, finished_at)"
        " SELECT gen_random_uuid(), id, 0, 'generate', 'generate', '{}', '{}', 'cuda', 1, 600,"
        " CASE WHEN waits THEN 'queued' ELSE 'succeeded' END,"
        " CASE WHEN waits THEN NULL ELSE 'completed' END, CASE WHEN waits THEN NULL ELSE now() END"
        " FROM (SELECT id, row_number() OVER () % 50 = 0 AS waits FROM jobs) AS j"
    )
    connection.execute("ANALYZE steps")
    plan = connection.execute(f"EXPLAIN {query()}".encode()).fetchall()
    text = "\n".join(str(line[0]) for line in plan)
    assert "ix_steps_lease_expires_at" in text and "Limit" in text
    assert "Seq Scan" not in text, text
