"""A schema changes beside processes of the previous version: docs/migrations.md."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from migrations import upgrade as migration
from sqlalchemy import Engine, event
from tests.integration.data.test_schema import empty_database

from shared.db.engine import Database
from shared.db.tables import REVISION, missing_migration
from shared.errors import InfraUnavailable

SCRIPTS = ScriptDirectory.from_config(migration.alembic_config("postgresql://"))
LATEST = SCRIPTS.get_current_head()


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    with empty_database(database_url) as made:
        yield made.replace("postgresql+psycopg", "postgresql")


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def revision(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert row is not None
    return str(row[0])


def missing(url: str) -> str | None:
    async def main() -> str | None:
        database = Database(url)
        try:
            return await database.transaction(missing_migration)
        finally:
            await database.close()

    return anyio.run(main)


def test_the_services_expect_the_newest_migration() -> None:
    assert LATEST == REVISION


def test_revisions_sort_in_the_order_in_which_they_are_applied() -> None:
    """A service knows an older schema from a newer one by nothing else."""
    newest_first = [script.revision for script in SCRIPTS.walk_revisions()]
    assert newest_first == sorted(newest_first, reverse=True)
    assert {len(revision) for revision in newest_first} == {4}


def test_a_process_starts_on_its_own_schema_and_not_on_an_older_one(url: str) -> None:
    assert missing(url) == LATEST
    command.upgrade(migration.alembic_config(url), "0001")
    assert missing(url) == LATEST
    migration.upgrade(url)
    assert missing(url) is None


def test_a_process_of_the_previous_version_comes_back_on_a_newer_schema(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    migration.upgrade(url)
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with caplog.at_level(logging.WARNING):
        assert missing(url) is None
    assert "9999" in caplog.text


def test_a_table_that_is_held_stops_a_migration_and_nobody_else(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "LOCK_TIMEOUT_S", 0.1)
    command.upgrade(migration.alembic_config(url), "0001")
    with psycopg.connect(url) as holder:
        # A process that writes. Without a limit of our own the upgrade would outlast this one.
        holder.execute("SET idle_in_transaction_session_timeout = '5s'")
        holder.execute("LOCK TABLE jobs IN ROW EXCLUSIVE MODE")
        with pytest.raises(InfraUnavailable, match="lock timeout"):
            migration.upgrade(url)
        execute(url, "SELECT 1 FROM jobs FOR UPDATE")
        assert revision(url) == "0001"
    migration.upgrade(url)
    assert revision(url) == LATEST


def test_whoever_comes_second_waits_says_so_and_does_not_wait_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(migration, "TURN_TIMEOUT_S", 0.5)
    monkeypatch.setattr(migration, "LOOK_EVERY_S", 0.05)
    with psycopg.connect(url, autocommit=True) as first:
        first.execute("SELECT pg_advisory_lock(%s)", (migration.ADVISORY_LOCK,))
        with caplog.at_level(logging.WARNING), pytest.raises(InfraUnavailable, match=r"for 0\.5 s"):
            migration.upgrade(url)
        assert caplog.text.count("another process migrates") == 1
        monkeypatch.setattr(migration, "TURN_TIMEOUT_S", 60.0)
        second = threading.Thread(target=migration.upgrade, args=(url,))
        second.start()
        _until(lambda: caplog.text.count("another process migrates") == 2, "the second waits")
        # Who waits holds no snapshot between two looks, so an index can be built CONCURRENTLY.
        holders = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL"
            " AND datname = current_database() AND backend_type = 'client backend' AND pid <> %s"
        )
        pid = first.info.backend_pid
        _until(lambda: first.execute(holders, (pid,)).fetchone() == (0,), "no snapshot is held")
    second.join(60)
    assert revision(url) == LATEST


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.01)


# What the previous version goes on using ----------------------------------------------------------

# A release only adds; what a release in use still reads goes one release later. The migration that
# takes it away then is named here, with the release that stopped using it.
CONTRACTS: dict[str, str] = {}
TAKES_AWAY = {
    "drops what N-1 uses": r"\bDROP (TABLE|COLUMN|SCHEMA|TYPE)\b",
    "renames what N-1 uses": r"\bRENAME\b",
    "changes a type under N-1": r"\bALTER COLUMN \w+ (SET DATA )?TYPE\b",
    "refuses what N-1 writes": r"\bSET NOT NULL\b",
    "refuses rows of N-1": r"\bADD COLUMN \w+ (?!.*\bDEFAULT\b).*\bNOT NULL\b",
    "takes a default away": r"\bDROP DEFAULT\b",
    "locks while it looks at every row": r"\bADD (CONSTRAINT \w+ )?CHECK\b(?!.*\bNOT VALID\b)",
}


def takes_away(statement: str) -> list[str]:
    flat = " ".join(statement.split())
    return [why for why, what in TAKES_AWAY.items() if re.search(what, flat, re.IGNORECASE)]


def test_no_migration_takes_away_what_the_previous_version_uses(url: str) -> None:
    command.upgrade(migration.alembic_config(url), "0001")
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        migration.upgrade(url)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    found, own, moves = dict[str, list[str]](), list[str](), list[str]()
    for statement in statements:
        own.append(statement)
        if moved := re.search(r"UPDATE alembic_version SET version_num='(\w+)'", statement):
            moves.append(moved[1])
            if problems := [f"{why}: {each}" for each in own for why in takes_away(each)]:
                found[moved[1]] = problems
            own = []
    assert moves[0] == "0002" and moves[-1] == LATEST
    assert found.keys() == CONTRACTS.keys(), found


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE jobs",
        "ALTER TABLE jobs DROP COLUMN progress",
        "ALTER TABLE jobs RENAME COLUMN a TO b",
        "ALTER TABLE jobs ALTER COLUMN a TYPE BIGINT",
        "ALTER TABLE jobs ALTER COLUMN a SET NOT NULL",
        "ALTER TABLE jobs ADD COLUMN a TEXT NOT NULL",
        "ALTER TABLE jobs ALTER COLUMN a DROP DEFAULT",
        "ALTER TABLE jobs ADD CONSTRAINT c CHECK (a > 0)",
    ],
)
def test_a_statement_that_takes_something_away_is_found(statement: str) -> None:
    assert len(takes_away(statement)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE jobs ADD COLUMN a TEXT",
        "ALTER TABLE jobs ADD COLUMN a INTEGER DEFAULT 0 NOT NULL",
        "ALTER TABLE jobs ALTER COLUMN a DROP NOT NULL",
        "ALTER TABLE jobs ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
        "ALTER TABLE jobs VALIDATE CONSTRAINT c",
        "CREATE INDEX i ON jobs (a)",
    ],
)
def test_a_statement_that_only_adds_is_not(statement: str) -> None:
    assert takes_away(statement) == []


def test_a_migration_that_failed_is_whole_or_not_there_and_frees_the_lock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.upgrade(migration.alembic_config(url), "0001")
    # The second statement of 0002 fails.
    execute(url, "CREATE INDEX ix_artifacts_step_id ON artifacts (step_id)")
    with pytest.raises(Exception, match="already exists"):
        migration.upgrade(url)
    assert revision(url) == "0001"
    with psycopg.connect(url) as connection:
        half = connection.execute("SELECT to_regclass('ix_jobs_replay_of')").fetchone()
        free = connection.execute(
            "SELECT pg_try_advisory_lock(%s)", (migration.ADVISORY_LOCK,)
        ).fetchone()
    assert (half, free) == ((None,), (True,))
    execute(url, "DROP INDEX ix_artifacts_step_id")
    migration.upgrade(url)
    migration.check(url)
