"""The database of a test, migrated and without rows."""

from __future__ import annotations

import psycopg
from migrations.upgrade import upgrade
from psycopg import sql

_WITH = sql.SQL("SELECT 1 FROM {0} AS each WHERE strpos(each::text, %s) > 0 LIMIT 1")


def empty_tables(url: str) -> None:
    """Delete the rows of every table. The database is migrated already."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE jobs, steps, events, artifacts, models, workers, usage, tag_usage, shares,"
            " run_times, inputs CASCADE"
        )


def tables_with(url: str, text: str) -> list[str]:
    """The tables, one of whose rows has this text in any column."""
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        return sorted(
            name
            for (name,) in names.fetchall()
            if connection.execute(_WITH.format(sql.Identifier(name)), (text,)).fetchone()
        )


def migrate_and_empty(url: str) -> None:
    upgrade(url)
    empty_tables(url)
