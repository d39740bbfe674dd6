"""Statements that are compiled once, and sent by the driver itself.

For what is sent for every job or step. SQLAlchemy's own way costs two to four times the CPU time:
it builds, keys and looks up each statement for each call, and goes through greenlets and result
objects (`benchmarks/isolation`).
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

_DIALECT = dialect()  # type: ignore[no-untyped-call]


class Statement:
    """One statement with named parameters; a row is a named tuple of its columns.

    Every value that differs between calls must be a `bindparam`: the text of the statement is
    always the same, so the server plans it once a connection. It belongs to the transaction of the
    connection that it is sent on, and raises what SQLAlchemy's statements raise.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        self.text = compiled.string
        self._query = self.text.encode()
        # As SQLAlchemy sends them: JSON is wrapped, most types need nothing.
        processors = {
            name: bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
            for name, bind in compiled.binds.items()
        }
        self._processors = {name: each for name, each in processors.items() if each is not None}
        required = {name for name, bind in compiled.binds.items() if bind.required}
        self._constants = self._processed(
            {name: value for name, value in compiled.params.items() if name not in required}
        )

    async def first(self, connection: AsyncConnection, **values: Any) -> Any | None:
        """Its first row; None when it has none."""
        cursor = await self._send(connection, values)
        return await cursor.fetchone()

    async def one(self, connection: AsyncConnection, **values: Any) -> Any:
        """Its only row."""
        (row,) = await self.all(connection, **values)
        return row

    async def all(self, connection: AsyncConnection, **values: Any) -> list[Any]:
        """All of its rows."""
        cursor = await self._send(connection, values)
        return await cursor.fetchall()

    async def scalar(self, connection: AsyncConnection, **values: Any) -> Any | None:
        """The first column of its first row; None when it has none."""
        row = await self.first(connection, **values)
        return None if row is None else row[0]

    async def run(self, connection: AsyncConnection, **values: Any) -> int:
        """Send one that returns no rows; how many rows it wrote."""
        return (await self._send(connection, values)).rowcount

    def _processed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        processors = self._processors
        return {
            name: processors[name](value) if name in processors else value
            for name, value in values.items()
        }

    async def _send(
        self, connection: AsyncConnection, values: Mapping[str, Any]
    ) -> psycopg.AsyncCursor[Any]:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        cursor = driver.cursor(row_factory=namedtuple_row)
        try:
            await cursor.execute(self._query, self._constants | self._processed(values))
        except psycopg.Error as error:
            ended = driver.closed
            if ended:  # never back into the pool
                await connection.invalidate(error)
            raise DBAPIError(self.text, None, error, connection_invalidated=ended) from error
        return cursor
