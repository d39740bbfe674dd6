"""The database of a test, migrated and without rows."""

from __future__ import annotations

import psycopg
from migrations.upgrade import upgrade


def empty_tables(url: str) -> None:
    """Delete the rows of every table. The database is migrated already."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE jobs, steps, events, artifacts, models, workers, usage, shares, run_times"
            " CASCADE"
        )


def migrate_and_empty(url: str) -> None:
    upgrade(url)
    empty_tables(url)
