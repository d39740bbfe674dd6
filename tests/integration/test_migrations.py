"""A schema changes beside processes of the previous version: docs/migrations.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from tests.integration.test_schema import empty_database

from shared.db import migrate
from shared.db.engine import Database
from shared.db.revision import missing_migration
from shared.errors import InfraUnavailable

LATEST = ScriptDirectory.from_config(migrate.alembic_config("postgresql://")).get_current_head()


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
            return await missing_migration(database)
        finally:
            await database.close()

    return anyio.run(main)


def test_a_process_starts_on_its_own_schema_and_not_on_an_older_one(url: str) -> None:
    assert missing(url) == LATEST
    command.upgrade(migrate.alembic_config(url), "0001")
    assert missing(url) == LATEST
    migrate.upgrade(url)
    assert missing(url) is None


def test_a_process_of_the_previous_version_comes_back_on_a_newer_schema(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    migrate.upgrade(url)
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with caplog.at_level(logging.WARNING):
        assert missing(url) is None
    assert "9999" in caplog.text


def test_a_table_that_is_held_stops_a_migration_and_nobody_else(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 0.1)
    command.upgrade(migrate.alembic_config(url), "0001")
    with psycopg.connect(url) as holder:
        # A process that writes. Without a limit of our own the upgrade would outlast this one.
        holder.execute("SET idle_in_transaction_session_timeout = '5s'")
        holder.execute("LOCK TABLE jobs IN ROW EXCLUSIVE MODE")
        with pytest.raises(InfraUnavailable, match="lock timeout"):
            migrate.upgrade(url)
        execute(url, "SELECT 1 FROM jobs FOR UPDATE")
        assert revision(url) == "0001"
    migrate.upgrade(url)
    assert revision(url) == LATEST


def test_a_migration_that_failed_is_whole_or_not_there_and_frees_the_lock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.upgrade(migrate.alembic_config(url), "0001")
    # The second statement of 0002 fails.
    execute(url, "CREATE INDEX ix_artifacts_step_id ON artifacts (step_id)")
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(url)
    assert revision(url) == "0001"
    with psycopg.connect(url) as connection:
        half = connection.execute("SELECT to_regclass('ix_jobs_replay_of')").fetchone()
        free = connection.execute(
            "SELECT pg_try_advisory_lock(%s)", (migrate.ADVISORY_LOCK,)
        ).fetchone()
    assert (half, free) == ((None,), (True,))
    execute(url, "DROP INDEX ix_artifacts_step_id")
    migrate.upgrade(url)
    migrate.check(url)
