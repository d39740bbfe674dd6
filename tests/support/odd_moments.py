"""Moments that Python has none for, for each column that holds some.

PostgreSQL takes any of them, and people write `infinity` where they mean never.
"""

from __future__ import annotations

from sqlalchemy import DateTime

from shared.db.tables import metadata

MOMENTS = ("infinity", "-infinity", "20000-01-01", "4000-01-01 BC", "1960-01-01")
# A constraint says when these are null.
_TIED = {"finished_at", "lease_expires_at", "ended_at", "next_at"}


def columns(*tables: str) -> list[tuple[str, str]]:
    """(table, column) of every moment in these tables."""
    return [
        (table, column.name)
        for table in tables
        for column in metadata.tables[table].columns
        if isinstance(column.type, DateTime)
    ]


def setting(table: str, column: str) -> str:
    """The statement that writes a moment, its only parameter, into all rows that can have one."""
    where = f" WHERE {column} IS NOT NULL" if column in _TIED else ""
    return f"UPDATE {table} SET {column} = %s{where}"
