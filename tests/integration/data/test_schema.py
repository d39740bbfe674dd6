"""The schema in a real PostgreSQL: what migrations make, what it refuses, how it is upgraded."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from migrations import upgrade as migration
from sqlalchemy import Connection, Table, create_engine, insert, make_url, text, update
from sqlalchemy.exc import IntegrityError

from shared.db.connect import DRIVER, connector
from shared.db.tables import (
    artifacts,
    deliveries,
    events,
    inputs,
    jobs,
    metadata,
    models,
    run_times,
    shares,
    steps,
    tag_usage,
    usage,
)
from shared.errors import InfraUnavailable
from shared.states import OWNED, STATUS_OF, TERMINAL, Priority, Reason, Status, StepState

S, R = StepState, Reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDED = {"finished_at": NOW, "reason": "completed"}
LEASED = {"lease_owner": uuid4(), "lease_expires_at": NOW}


# Databases ----------------------------------------------------------------------------------------


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(DRIVER, creator=connector(url, "dreamforge-test"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """A new database beside the one that `server` names, dropped afterwards."""
    name = f"df_schema_{uuid4().hex}"
    with connected(server) as connection:
        admin = connection.execution_options(isolation_level="AUTOCOMMIT")
        admin.execute(text(f"CREATE DATABASE {name}"))
        try:
            url = make_url(server).set(database=name)
            yield url.render_as_string(hide_password=False)
        finally:
            admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def empty_url(database_url: str) -> Iterator[str]:
    with empty_database(database_url) as url:
        yield url


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """One transaction that is never committed."""
    with connected(database_url) as connection:
        yield connection


# The migrations make what the code says -----------------------------------------------------------

Definitions = dict[tuple[str, str], str]

_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
"""
_INDEXES = """
    SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = 'public'::regnamespace
"""
_COLUMNS = """
    SELECT attrelid::regclass::text, attname, concat_ws(' ', format_type(atttypid, atttypmod),
        CASE WHEN attnotnull THEN 'NOT NULL' END, pg_get_expr(adbin, adrelid))
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
        AND NOT attisdropped
"""
_STORAGE = """
    SELECT oid::regclass::text, '', coalesce(reloptions::text, '') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def definitions(connection: Connection, query: str) -> Definitions:
    rows = connection.execute(text(query)).all()
    return {(r[0], r[1]): r[2] for r in rows if r[0] != "alembic_version"}


def test_alembic_finds_no_drift(database_url: str) -> None:
    migration.check(database_url)


@pytest.mark.parametrize(
    "query",
    [_CONSTRAINTS, _INDEXES, _COLUMNS, _STORAGE],
    ids=["constraints", "indexes", "columns", "storage"],
)
def test_the_migrations_make_exactly_what_the_tables_in_code_say(
    connection: Connection, empty_url: str, query: str
) -> None:
    """`alembic check` looks neither at CHECK constraints nor at an index's WHERE."""
    with connected(empty_url) as fresh:
        metadata.create_all(fresh)
        assert definitions(connection, query) == definitions(fresh, query)


# The words are those of the code ------------------------------------------------------------------


def words(connection: Connection, table: str, name: str) -> set[str]:
    """Every quoted word in a CHECK constraint, as PostgreSQL understood it."""
    return set(re.findall(r"'([^']*)'::text", definitions(connection, _CONSTRAINTS)[table, name]))


@pytest.mark.parametrize(
    ("table", "name", "enums"),
    [
        ("steps", "ck_steps_state", StepState),
        ("steps", "ck_steps_reason", Reason),
        ("steps", "ck_steps_finished", TERMINAL),
        ("steps", "ck_steps_lease", OWNED),
        ("steps", "ck_steps_priority", Priority),
        ("jobs", "ck_jobs_priority", Priority),
        ("jobs", "ck_jobs_status", Status),
        ("jobs", "ck_jobs_reason", Reason),
        ("jobs", "ck_jobs_finished", {STATUS_OF[state] for state in TERMINAL}),
    ],
)
def test_the_constraints_know_the_words_of_the_code(
    connection: Connection, table: str, name: str, enums: Iterable[StrEnum]
) -> None:
    assert words(connection, table, name) == {word.value for word in enums}


# Rows ---------------------------------------------------------------------------------------------


def model_row() -> dict[str, Any]:
    return {
        "id": uuid4(),
        "name": "tiny",
        "version": uuid4().hex,
        "kind": "stable-diffusion",
        "checkpoint_sha256": "0" * 64,
        "descriptor": {},
        "parameters_schema": {},
        "capabilities": {},
    }


def job_row() -> dict[str, Any]:
    return {
        "id": uuid4(),
        "type": "generate",
        "status": "queued",
        "request": {},
        "count": 1,
        "correlation_id": "c",
    }


def step_row(job: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "job_id": job["id"],
        "position": 0,
        "name": "generate",
        "type": "generate",
        "params": {},
        "device": "cpu",
        "preset": {},
        "vram_bytes": 0,
        "timeout_s": 60.0,
        "model_id": model["id"],
        "checkpoint_sha256": "0" * 64,
        "state": "queued",
    }


def event_row(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "job_id": job["id"],
        "seq": 1,
        "level": "INFO",
        "code": "job.created",
        "message": "accepted",
    }


def artifact_row(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "job_id": step["job_id"],
        "step_id": step["id"],
        "step": step["name"],
        "item_index": 0,
        "format": "png",
        "width": 64,
        "height": 64,
        "seed": 2**53 - 1,
        "s3_key": uuid4().hex,
        "sha256": "0" * 64,
        "size_bytes": 1,
    }


Rows = dict[str, dict[str, Any]]


@pytest.fixture
def rows(connection: Connection) -> Rows:
    """One good row in every table that a job touches."""
    model, job = model_row(), job_row()
    step = step_row(job, model)
    made = {
        "models": model,
        "jobs": job,
        "steps": step,
        "events": event_row(job),
        "artifacts": artifact_row(step),
        "run_times": {"type": "generate", "checkpoint_sha256": "0" * 64, "preset": "cpu@1"}
        | {name: [1.0] for name in ("work", "start_seconds", "seconds")},
        "usage": {"day": NOW.date(), "user": "ada", "model": "tiny@1"},
        "tag_usage": {"day": NOW.date(), "user": "ada", "model": "tiny@1"}
        | {"tag_key": "project", "tag_value": "shop"},
        "inputs": {
            "id": uuid4(),
            "user": "ada",
            "format": "png",
            "width": 8,
            "height": 8,
            "orientation": 1,
            "size_bytes": 100,
            "sha256": "0" * 64,
            "s3_key": "dreamforge/ada/inputs/0",
        },
        "shares": {"user": "ada", "device": "cpu", "virtual_s": 0, "start_s": 0, "mean_s": 0},
    }
    made["deliveries"] = {
        "job_id": made["jobs"]["id"],
        "seq": 1,
        "user": "ada",
        "host": "127.0.0.1:80",
        "event": "end",
        "payload": {},
        "state": "waiting",
        "next_at": NOW,
        "expires_at": NOW,
    }
    for name, row in made.items():
        connection.execute(insert(metadata.tables[name]).values(row))
    return made


def _change(connection: Connection, table: Table, rows: Rows, values: dict[str, Any]) -> None:
    keys = [column == rows[table.name][column.name] for column in table.primary_key]
    assert connection.execute(update(table).where(*keys).values(values)).rowcount == 1


# What it refuses ----------------------------------------------------------------------------------


IMPOSSIBLE_STEPS: list[tuple[str, dict[str, Any]]] = [
    ("state", {"state": "asleep"}),
    ("reason", {"state": "failed", "finished_at": NOW, "reason": "bad luck"}),
    ("counters", {"attempt": -1}),
    ("counters", {"losses": -1}),
    ("counters", {"epoch": -1}),
    ("device", {"device": "tpu"}),
    ("priority", {"priority": "urgent"}),
    ("weight", {"weight": 0}),
    ("needs", {"timeout_s": 0}),
    ("needs", {"vram_bytes": -1}),
    ("model", {"model_id": None}),
    ("model", {"checkpoint_sha256": None}),
    *(("finished", {"state": state, "reason": "completed"}) for state in sorted(TERMINAL)),
    *(("finished", {"state": state, "finished_at": NOW}) for state in sorted(TERMINAL)),
    *(("finished", {"state": state}) for state in sorted(TERMINAL)),
    *(("finished", {"state": state} | ENDED) for state in (S.PENDING, S.QUEUED)),
    *(("finished", {"state": state} | ENDED | LEASED) for state in sorted(OWNED)),
    ("finished", {"reason": "completed"}),
    *(("lease", {"state": state}) for state in sorted(OWNED)),
    *(("lease", {"state": state, "lease_owner": uuid4()}) for state in sorted(OWNED)),
    *(("lease", {"state": state, "lease_expires_at": NOW}) for state in sorted(OWNED)),
    *(("lease", {"state": state} | LEASED) for state in (S.PENDING, S.QUEUED)),
    *(("lease", {"state": state} | ENDED | LEASED) for state in sorted(TERMINAL)),
    ("lease", {"lease_expires_at": NOW}),
]
IMPOSSIBLE_JOBS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": "leased"}),  # a word of steps
    ("reason", {"status": "failed", "finished_at": NOW, "reason": "bad luck"}),
    *(("finished", {"status": STATUS_OF[state]}) for state in sorted(TERMINAL)),
    ("finished", {"status": "succeeded", "finished_at": NOW}),
    ("finished", {"status": "succeeded", "reason": "completed"}),
    ("finished", {"status": "running"} | ENDED),
    ("finished", {"reason": "completed"}),
    ("priority", {"priority": "urgent"}),
    ("count", {"count": 0}),
    ("count", {"count": 101}),
    ("idempotency", {"key_hash": "k"}),
    ("idempotency", {"fingerprint": "f"}),
]
IMPOSSIBLE_OTHERS: list[tuple[Table, str, dict[str, Any]]] = [
    (events, "level", {"level": "TRACE"}),
    (events, "seq", {"seq": 0}),
    (artifacts, "format", {"format": "gif"}),
    (artifacts, "seed", {"seed": -1}),
    (inputs, "format", {"format": "gif"}),
    (deliveries, "event", {"event": "progress"}),
    (deliveries, "state", {"state": "sent", "ended_at": NOW, "next_at": None}),
    *((deliveries, "counters", {name: -1}) for name in ("attempts", "seq")),
    *(
        (deliveries, "ended", values)
        for values in ({"state": "dead"}, {"ended_at": NOW}, {"state": "dead", "ended_at": NOW})
    ),
    (inputs, "orientation", {"orientation": 9}),
    *((inputs, "sizes", {name: 0}) for name in ("width", "height", "size_bytes")),
    (artifacts, "seed", {"seed": 2**53}),
    *((run_times, "samples", {name: []}) for name in ("work", "start_seconds", "seconds")),
    *(
        (table, "amounts", {column.name: -1})
        for table in (usage, tag_usage)
        for column in table.c
        if not column.primary_key and column.name != "schema_version"
    ),
    *((shares, "amounts", {name: -1}) for name in ("virtual_s", "start_s", "mean_s")),
]
IMPOSSIBLE = [(steps, name, values) for name, values in IMPOSSIBLE_STEPS]
IMPOSSIBLE += [(jobs, name, values) for name, values in IMPOSSIBLE_JOBS]
IMPOSSIBLE += IMPOSSIBLE_OTHERS


def _label(case: tuple[Table, str, dict[str, Any]]) -> str:
    table, name, values = case
    return f"{table.name}-{name}-{values.get('state', values.get('status', ''))}{len(values)}"


@pytest.mark.parametrize("case", IMPOSSIBLE, ids=_label)
def test_a_row_that_cannot_be_is_refused(
    connection: Connection, rows: Rows, case: tuple[Table, str, dict[str, Any]]
) -> None:
    table, name, values = case
    with pytest.raises(IntegrityError) as refused:
        _change(connection, table, rows, values)
    assert f'"ck_{table.name}_{name}"' in str(refused.value)


def test_every_check_constraint_is_seen_to_refuse_something(connection: Connection) -> None:
    made = definitions(connection, _CONSTRAINTS)
    checks = {name for (_, name), made_as in made.items() if made_as.startswith("CHECK")}
    assert checks == {f"ck_{table.name}_{name}" for table, name, _ in IMPOSSIBLE}


@pytest.mark.parametrize("state", StepState)
def test_every_state_has_a_row_that_is_accepted(
    connection: Connection, rows: Rows, state: StepState
) -> None:
    ended = ENDED if state in TERMINAL else {}
    _change(connection, steps, rows, {"state": state} | ended | (LEASED if state in OWNED else {}))
    _change(connection, jobs, rows, {"status": STATUS_OF[state]} | ended)


def test_every_reason_is_accepted(connection: Connection, rows: Rows) -> None:
    for reason in Reason:
        ended = {"finished_at": NOW, "reason": reason}
        _change(connection, steps, rows, {"state": "failed"} | ended)
        _change(connection, jobs, rows, {"status": "failed"} | ended)


def _second_artifact(rows: Rows) -> tuple[Table, dict[str, Any]]:
    return artifacts, artifact_row(rows["steps"])


def _second_event(rows: Rows) -> tuple[Table, dict[str, Any]]:
    return events, event_row(rows["jobs"])


def _second_step(rows: Rows) -> tuple[Table, dict[str, Any]]:
    return steps, step_row(rows["jobs"], rows["models"])


def _second_model(rows: Rows) -> tuple[Table, dict[str, Any]]:
    return models, rows["models"] | {"id": uuid4()}


def _same_object(rows: Rows) -> tuple[Table, dict[str, Any]]:
    key = rows["artifacts"]["s3_key"]
    return artifacts, artifact_row(rows["steps"]) | {"item_index": 1, "s3_key": key}


@pytest.mark.parametrize(
    "second", [_second_artifact, _second_event, _second_step, _second_model, _same_object]
)
def test_the_same_thing_is_not_stored_twice(
    connection: Connection,
    rows: Rows,
    second: Callable[[Rows], tuple[Table, dict[str, Any]]],
) -> None:
    table, row = second(rows)
    with pytest.raises(IntegrityError, match="duplicate key"):
        connection.execute(insert(table).values(row))


def test_an_idempotency_key_is_unique_per_user_and_only_where_there_is_one(
    connection: Connection, rows: Rows
) -> None:
    key = {"key_hash": "k", "fingerprint": "f"}
    for row in (job_row(), job_row() | key, job_row() | key | {"user": "somebody"}):
        connection.execute(insert(jobs).values(row))
    with pytest.raises(IntegrityError, match="ix_jobs_idempotency"):
        connection.execute(insert(jobs).values(job_row() | key))


def test_a_job_takes_all_that_belongs_to_it_along(connection: Connection, rows: Rows) -> None:
    connection.execute(jobs.delete().where(jobs.c.id == rows["jobs"]["id"]))
    for table in (steps, events, artifacts):
        found = connection.execute(table.select().where(table.c.job_id == rows["jobs"]["id"]))
        assert found.first() is None


# Upgrades -----------------------------------------------------------------------------------------


def _everything(url: str) -> list[Definitions]:
    with connected(url) as connection:
        return [definitions(connection, q) for q in (_CONSTRAINTS, _INDEXES, _COLUMNS, _STORAGE)]


def test_a_second_upgrade_changes_nothing(empty_url: str) -> None:
    migration.upgrade(empty_url)
    first = _everything(empty_url)
    migration.upgrade(empty_url)
    assert _everything(empty_url) == first
    migration.check(empty_url)


def test_a_downgrade_leaves_nothing_behind_and_can_be_undone(
    empty_url: str, database_url: str
) -> None:
    migration.upgrade(empty_url)
    command.downgrade(migration.alembic_config(empty_url), "base")
    assert _everything(empty_url) == [{}, {}, {}, {}]
    migration.upgrade(empty_url)
    assert _everything(empty_url) == _everything(database_url)


_UPGRADE = "import sys; from migrations.upgrade import upgrade; upgrade(sys.argv[1])"


def _start_upgrade(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _UPGRADE, url], stderr=subprocess.PIPE)


def _until_waiting(process: subprocess.Popen[bytes]) -> None:
    """It says so when somebody else has the lock. The test's own time limit ends this wait."""
    assert process.stderr is not None
    assert b"waiting for it to finish" in process.stderr.readline()


def test_two_upgrades_at_once_both_succeed(empty_url: str) -> None:
    """Both are held at the lock first, so that they really meet."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with connected(empty_url) as gate:
            gate.execute(text("SELECT pg_advisory_lock(:key)"), {"key": migration.ADVISORY_LOCK})
            processes += [_start_upgrade(empty_url), _start_upgrade(empty_url)]
            for process in processes:
                _until_waiting(process)
        for process in processes:
            _, stderr = process.communicate(timeout=60)
            assert process.returncode == 0, stderr.decode()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    migration.check(empty_url)


def test_an_upgrade_says_so_when_no_server_answers() -> None:
    # Nothing listens on the discard port of loopback, and no unprivileged process can start to.
    with pytest.raises(InfraUnavailable):
        migration.upgrade("postgresql://df@127.0.0.1:9/df")
