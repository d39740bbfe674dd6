"""Connections and transactions.

`Database.transaction` is the only way to the tables. It runs a function in one short transaction,
repeats it when PostgreSQL picked it as the victim of a deadlock or a serialization conflict (both
mean "nothing happened, try again"), and turns "the server is away" into `InfraUnavailable`, so that
no caller ever sees a driver's exception for either. A server that is too slow is away as well: a
row that a migration holds must cost a worker a retry, not its process with every runner in it.

The function may run more than once: it must do nothing but SQL. No network and no GPU work happens
inside a session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import TypeVar

import anyio
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.errors import InfraUnavailable
from shared.retry import backoff, retry

T = TypeVar("T")
# An open transaction, for callers that pass one on and import no SQLAlchemy.
Connection = AsyncConnection

# Deadlock and serialization failures repeat at most this often; five collisions in a row mean a
# bug in the lock order, which must surface, not spin.
MAX_TRIES = 5
_RETRY_SQLSTATES = {"40001", "40P01"}
# Classes 08 (connection), 53 (resources: too many connections), 57P (shutting down, crash), 58 (its
# disk); and a server that only reads, which is a standby, or a primary that was replaced.
_AWAY_PREFIXES = ("08", "53", "57P", "58", "25006")
# The time-outs below, of a statement, a lock, and a transaction that was idle (its process had been
# stopped).
_LATE_SQLSTATES = {"57014", "55P03", "25P03"}
# The server keeps its own time-outs only while it runs. One that hangs is given up after this: more
# than a statement may take, and less than the fence of the usual lease.
PATIENCE_S = 20.0


class Database:
    """A pool of connections to the system of record."""

    def __init__(self, url: str, *, pool_size: int = 5, application: str = "dreamforge") -> None:
        self._engine: AsyncEngine = create_async_engine(
            _driver_url(url),
            pool_size=pool_size,
            max_overflow=5,
            pool_timeout=5,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args={
                "connect_timeout": 3,
                "application_name": application,
                # A statement that takes this long is a bug or a sick server; either way the lease
                # of whoever waits for it is in danger.
                "options": "-c statement_timeout=15000 -c idle_in_transaction_session_timeout=15000"
                " -c lock_timeout=10000",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10000,
            },
        )

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one transaction and return its value; see the module for what is retried.

        Raises `InfraUnavailable` when the server cannot be reached. The commit's outcome is then
        unknown: who must know reads it back by id and epoch.
        """

        async def attempt() -> T:
            try:
                with anyio.fail_after(PATIENCE_S):
                    async with self._engine.begin() as connection:
                        return await work(connection)
            except (TimeoutError, PoolTimeout, DBAPIError) as error:
                if (away := _away(error)) is not None:
                    raise away from error
                raise

        pauses = islice(backoff(first_s=0.04, most_s=1.0, jitter=1.0), MAX_TRIES - 1)
        return await retry(attempt, on=DBAPIError, pauses=pauses, on_failure=_raise_unless_conflict)

    @asynccontextmanager
    async def alone(self, key: int) -> AsyncIterator[bool]:
        """Hold the advisory lock `key` of this database; False when somebody else has it.

        It belongs to a connection of its own, which is idle meanwhile: a process that dies frees
        it, and so does a connection that breaks, unnoticed. Guard with it what may be done twice.
        """
        async with AsyncExitStack() as held:
            yield await self._take(held, key)

    async def _take(self, held: AsyncExitStack, key: int) -> bool:
        """Take the lock until `held` is closed, if it is free."""
        try:
            with anyio.fail_after(PATIENCE_S):
                plain = await held.enter_async_context(self._engine.connect())
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                taken = bool(await connection.scalar(select(func.pg_try_advisory_lock(key))))
        except (TimeoutError, PoolTimeout, DBAPIError) as error:
            if (away := _away(error)) is not None:
                raise away from error
            raise
        if taken:
            held.push_async_callback(_unlock, connection, key)
        return taken

    async def ping(self) -> None:
        """Raise `InfraUnavailable` unless the server answers a trivial statement."""
        await self.transaction(lambda connection: connection.execute(text("SELECT 1")))

    async def close(self) -> None:
        await self._engine.dispose()


async def _unlock(connection: AsyncConnection, key: int) -> None:
    """Free the lock, also when we are being cancelled, but not at any price."""
    with anyio.CancelScope(shield=True):
        try:
            with anyio.fail_after(PATIENCE_S):
                await connection.execute(select(func.pg_advisory_unlock(key)))
        except (TimeoutError, DBAPIError):
            # Never back into the pool with a lock; a connection that ends frees it.
            await connection.invalidate()


def _away(error: Exception) -> InfraUnavailable | None:
    """What the caller is told when the server is not there or too slow; None when we are wrong."""
    match error:
        case TimeoutError():
            return InfraUnavailable("PostgreSQL did not answer in time")
        case PoolTimeout():
            return InfraUnavailable("PostgreSQL: no connection became free in time")
        case DBAPIError() if _sqlstate(error) in _LATE_SQLSTATES:
            return InfraUnavailable("PostgreSQL did not answer in time")
        case DBAPIError() if is_away(error):
            return InfraUnavailable("PostgreSQL cannot be reached")
        case _:
            return None


def is_away(error: DBAPIError) -> bool:
    """Whether the statement failed because the server is not there, rather than because of it."""
    sqlstate = _sqlstate(error)
    if sqlstate is None:  # the driver itself gave up: refused, reset, timed out
        return error.connection_invalidated or type(error.orig).__name__ in {
            "OperationalError",
            "ConnectionTimeout",
        }
    return sqlstate.startswith(_AWAY_PREFIXES)


def _raise_unless_conflict(error: DBAPIError, _pause_s: float) -> None:
    if _sqlstate(error) not in _RETRY_SQLSTATES:
        raise error


def _sqlstate(error: Exception) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def _driver_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    return url if "+" in scheme else f"postgresql+psycopg://{rest}"


def sync_url(url: str) -> str:
    """The same address for Alembic, which works synchronously with the same driver."""
    return _driver_url(url)
