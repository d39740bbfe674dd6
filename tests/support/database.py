"""The database of a test: one connection that is kept, and tables without rows.

To log in takes PostgreSQL longer than nearly all that a test asks of it.
"""

from __future__ import annotations

import atexit
import select
from contextlib import suppress
from typing import Any

import psycopg
from migrations.upgrade import upgrade
from psycopg import sql

_WITH = sql.SQL("SELECT 1 FROM {0} AS each WHERE strpos(each::text, %s) > 0 LIMIT 1")
# Each table behind those that refer to it.
_TABLES = (
    "artifacts", "events", "deliveries", "job_tags", "steps", "jobs", "models", "workers", "usage",
    "tag_usage", "shares", "run_times", "inputs",
)  # fmt: skip
_EMPTY = "; ".join(f"DELETE FROM {table}" for table in _TABLES)
_TRUNCATE = f"TRUNCATE {', '.join(_TABLES)}"
# Of rows that were deleted, until a vacuum. A look through more takes longer than a new file.
_MOST_BYTES = 4 << 20
_SIZE = "SELECT sum(pg_relation_size(name)) FROM unnest(ARRAY['jobs', 'steps', 'events']) AS name"

_kept: dict[str, psycopg.Connection[tuple[Any, ...]]] = {}


def connection_to(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """The connection of this process that is kept; it commits each statement.

    It prepares none: a test may change what a table is made of.
    """
    connection = _kept.get(url)
    if connection is None or _has_ended(connection):
        close_connection(url)
        connection = _kept[url] = psycopg.connect(url, autocommit=True, prepare_threshold=None)
    return connection


def close_connection(url: str) -> None:
    """Close the one that is kept, if there is one: who drops a database must be alone there."""
    if (connection := _kept.pop(url, None)) is not None:
        connection.close()


def _has_ended(connection: psycopg.Connection[Any]) -> bool:
    """Nothing can arrive on an idle connection but its end."""
    if connection.closed:
        return True
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    return bool(socket.poll(0))


@atexit.register
def _close_all() -> None:
    for url in list(_kept):
        with suppress(psycopg.Error):
            close_connection(url)


def execute(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement and commit it; its rows, if it returns any."""
    cursor = connection_to(url).execute(statement.encode(), values or None)
    return cursor.fetchall() if cursor.description else []


def empty_tables(url: str) -> None:
    """Delete the rows of every table. The database is migrated already."""
    ((size_bytes,),) = execute(url, _SIZE)
    execute(url, _EMPTY if size_bytes < _MOST_BYTES else _TRUNCATE)


def tables_with(url: str, text: str) -> list[str]:
    """The tables, one of whose rows has this text in any column."""
    connection = connection_to(url)
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
