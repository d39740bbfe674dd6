"""Connections and transactions.

`Database.transaction` is the only way to the tables. It runs a function in one short transaction.
It repeats the function after a deadlock or a serialization conflict, since nothing was written
then. A server that is away or too slow becomes `InfraUnavailable`, so no caller handles the
driver's exceptions. Too slow counts as away: a row that a migration locks must cost a worker a
retry, not its process with every runner in it.

The function may run more than once, so it does nothing but SQL: no network, no GPU.

`Database.statement` runs a function that sends one statement, without BEGIN and COMMIT around it:
one round trip instead of three.

A connection that waits in the pool may have ended meanwhile: the server was restarted, say. The
pool looks at its socket before it hands it out, which costs no round trip as a ping would. A server
that only reads may have been replaced by another one: after it was met once, the pool opens its
connections anew, and the address decides where they lead.

Behind a pooler each piece of work is one transaction that sets its own time-outs, a single
statement too (`shared.db.connect`).
"""

import select as io_select
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from uuid import UUID

import anyio
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.db.connect import (
    DRIVER,
    async_connector,
    options_of,
    session_statement,
    transaction_statement,
)
from shared.db.stored_values import read_all_values
from shared.errors import InfraUnavailable
from shared.retry import backoff, retry
from shared.threads import NO_THREADS, is_lack_of_threads

T = TypeVar("T")
P = ParamSpec("P")
# An open transaction, for callers that pass one on and import no SQLAlchemy.
Connection = AsyncConnection

# Deadlock and serialization failures repeat at most this often; five collisions in a row mean a
# bug in the lock order, which must surface, not spin.
MAX_ATTEMPTS = 5
_RETRY_SQLSTATES = {"40001", "40P01"}
# Classes 08 (connection), 53 (resources: too many connections), 57P (shutting down, crash), 58 (its
# disk); and a server that only reads, which is a standby, or a primary that was replaced.
_READS_ONLY = "25006"
_AWAY_PREFIXES = ("08", "53", "57P", "58", _READS_ONLY)
# Of those: what is not an absence.
_PROBLEMS = {
    _READS_ONLY: "PostgreSQL only reads",
    "53100": "PostgreSQL's disk is full",
    "53300": "PostgreSQL has no connection left",
}
# The time-outs below, of a statement, a lock, and a transaction that was idle (its process had been
# stopped).
_LATE_SQLSTATES = {"57014", "55P03", "25P03"}
# The server keeps its own time-outs only while it runs. One that hangs is given up after this: more
# than a statement may take, and less than the fence of the usual lease.
ANSWER_TIMEOUT_S = 20.0
# More numbers than 64 kB of memory hold: the server keeps them in a file.
_LITTLE_MEMORY = "SET LOCAL work_mem = '64kB'"
_WRITE = "SELECT pg_current_xact_id(), (SELECT count(*) FROM generate_series(1, 20000))"
# Takes no lock and writes nothing, and is refused where nothing may be written.
_LOCK_NO_ROW = "SELECT FROM steps WHERE false FOR KEY SHARE"
# A transaction that holds a lock waits for what is done under it.
_WAIT_IDLE = "SELECT set_config('idle_in_transaction_session_timeout', '0', true)"
# Where a connection keeps the jobs whose events its transaction appends.
_APPENDED = "appended_events"
# Where a connection says that a pooler is before the server.
_IS_POOLED = "is_pooled"


class Database:
    """A pool of connections to the system of record."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        application: str = "dreamforge",
        on_events: Callable[[Collection[UUID]], None] = lambda job_ids: None,
    ) -> None:
        """`on_events` gets the jobs of the events that a transaction appended, once it committed.

        It must neither wait nor raise.
        """
        self._on_events = on_events
        self._options = options_of(url)
        self._time_outs = transaction_statement(url)
        self._met_reader = False
        self._engine: AsyncEngine = create_async_engine(
            DRIVER,
            async_creator=async_connector(url, application),
            pool_size=pool_size,
            # One above the size would be opened and closed again for each statement that finds the
            # others busy, which costs more than the wait for one of them.
            max_overflow=0,
            # The one used last: its plans are made, and its server process is in the caches.
            pool_use_lifo=True,
            pool_timeout=5,
            pool_recycle=1800,
        )
        event.listen(self._engine.sync_engine, "connect", partial(_begin_session, url))
        event.listen(self._engine.sync_engine, "checkout", self._refuse_ended)
        # The same pool, with every statement a transaction of its own.
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def transaction(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, *args, **kwargs)` in one transaction and return its value.

        Raises `InfraUnavailable`. It is then unknown whether the commit happened: a caller that
        must know reads it back by id and epoch.
        """
        return await self._run(self._engine, lambda each: work(each, *args, **kwargs))

    async def statement(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The same for `work` that sends one statement, which commits by itself."""
        return await self._run(self._autocommit, lambda each: work(each, *args, **kwargs))

    async def _run(self, engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async def attempt() -> T:
            with self._translate_errors(), anyio.fail_after(ANSWER_TIMEOUT_S):
                async with engine.begin() as connection:
                    if connection.info.get(_IS_POOLED):
                        await self._begin_pooled(connection, by_itself=engine is self._autocommit)
                    appended: set[UUID] = set()
                    connection.info[_APPENDED] = appended
                    result = await work(connection)
                if appended:
                    self._on_events(appended)
                return result

        pauses = islice(backoff(first_s=0.04, most_s=1.0, jitter=1.0), MAX_ATTEMPTS - 1)
        return await retry(attempt, on=DBAPIError, pauses=pauses, on_failure=_raise_unless_conflict)

    async def _begin_pooled(self, connection: AsyncConnection, *, by_itself: bool) -> None:
        begin = "BEGIN; " if by_itself else ""  # else the driver begins by itself
        await connection.exec_driver_sql(f"{begin}{self._time_outs}")

    @asynccontextmanager
    async def try_lock(self, key: int) -> AsyncIterator[bool]:
        """Hold the advisory lock `key` of this database; False when another process holds it.

        The lock belongs to a transaction of its own, which is idle meanwhile: behind a pooler a
        session would not be ours for so long. It holds no row, and keeps no vacuum waiting. It is
        lost, unnoticed, when its connection breaks: guard with it only what may be done twice.
        """
        async with AsyncExitStack() as stack:
            with self._translate_errors(), anyio.fail_after(ANSWER_TIMEOUT_S):
                connection = await stack.enter_async_context(self._engine.connect())
                stack.push_async_callback(_roll_back, connection)
                await connection.execute(text(_WAIT_IDLE))
                lock = select(func.pg_try_advisory_xact_lock(key))
                acquired = bool(await connection.scalar(lock))
            yield acquired

    async def ping(self) -> None:
        """Raise `InfraUnavailable` unless the server answers a trivial statement."""
        await self.transaction(lambda connection: connection.execute(text("SELECT 1")))

    async def probe_write(self) -> None:
        """Raise `InfraUnavailable` unless the server can write to its log and to its disk.

        A server whose disk is full, or that only reads, answers a trivial statement all the same.
        The number of the transaction is written to the log, and what the statement counts goes to a
        file, which is gone with it.
        """

        async def work(connection: Connection) -> None:
            await connection.execute(text(_LITTLE_MEMORY))
            await connection.execute(text(_WRITE))
            await connection.execute(text(_LOCK_NO_ROW))

        await self.transaction(work)

    async def knows_sessions(self) -> bool:
        """Whether each connection keeps its session, or is known to be a pooler's.

        Two connections are used in turn. If one of them meets two server processes, or both meet
        one, then neither has a process of its own.
        """
        seen: tuple[set[int], set[int]] = (set(), set())
        with self._translate_errors(), anyio.fail_after(ANSWER_TIMEOUT_S):
            async with self._autocommit.connect() as one, self._autocommit.connect() as other:
                if one.info.get(_IS_POOLED) and other.info.get(_IS_POOLED):
                    return True
                for connection, pids in ((one, seen[0]), (other, seen[1])) * 3:
                    pid = await connection.scalar(select(func.pg_backend_pid()))
                    pids.add(cast("int", pid))
        return len(seen[0]) == len(seen[1]) == 1 and not seen[0] & seen[1]

    async def ignored_options(self) -> list[str]:
        """The settings in the address's `options` that did not reach the session."""
        return await self.transaction(self._ignored_options)

    async def _ignored_options(self, connection: AsyncConnection) -> list[str]:
        rows = await connection.execute(
            text("SELECT lower(name), setting, source FROM pg_settings")
        )
        reached = {
            name
            for name, setting, source in rows
            if source in {"client", "session"} or setting == self._options.get(name)
        }
        return sorted(self._options.keys() - reached)

    async def is_superuser(self) -> bool:
        """Whether our role may do everything, also what reaches out of the database."""
        return await self.transaction(_is_superuser)

    async def close(self) -> None:
        await self._engine.dispose()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise `InfraUnavailable` for a server that is away or too slow; other errors pass."""
        try:
            yield
        except RuntimeError as error:  # the name of a server is resolved in a thread
            if not is_lack_of_threads(error):
                raise
            raise InfraUnavailable("PostgreSQL cannot be reached", reason=NO_THREADS) from error
        except (TimeoutError, PoolTimeout, DBAPIError) as error:
            if (problem := _problem(error)) is None:
                raise
            self._met_reader |= _sqlstate(error) == _READS_ONLY
            raise InfraUnavailable(problem, reason=_reason(error)) from error

    def _refuse_ended(self, dbapi_connection: Any, _record: object, _proxy: object) -> None:
        """Make the pool replace a connection that cannot be used, and all that are older.

        Nothing can arrive on an idle connection but its end. What no end announces, a machine that
        vanished, the kernel's keepalives find: they turn into an error on the socket.
        """
        if self._met_reader:
            self._met_reader = False
            raise InvalidatePoolError("the server only reads, and may have been replaced")
        driver = dbapi_connection.driver_connection
        socket = io_select.poll()
        if not driver.closed:
            socket.register(driver.fileno(), io_select.POLLIN)
        if driver.closed or socket.poll(0):
            raise InvalidatePoolError("the server has ended this connection")


async def _is_superuser(connection: AsyncConnection) -> bool:
    role = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    return bool(await connection.scalar(text(role)))


def _begin_session(url: str, dbapi_connection: Any, record: Any) -> None:
    """Read every value, and set our time-outs, or note that a pooler is before the server.

    In a transaction the time-outs would end with its rollback.
    """
    driver = dbapi_connection.driver_connection
    read_all_values(driver)
    dbapi_connection.autocommit = True
    cursor = dbapi_connection.cursor()
    cursor.execute(session_statement(url, driver.info.backend_pid))
    (is_own, *_) = cursor.fetchone()
    cursor.close()
    dbapi_connection.autocommit = False
    if not is_own:
        record.info[_IS_POOLED] = True
        driver.prepare_threshold = None


def note_events(connection: AsyncConnection, job_id: UUID) -> None:
    """The transaction appends events of this job: `on_events` will hear of it."""
    connection.info.setdefault(_APPENDED, set()).add(job_id)


async def _roll_back(connection: AsyncConnection) -> None:
    """End the transaction, also while this task is being cancelled, but within a time limit."""
    with anyio.CancelScope(shield=True):
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                await connection.rollback()
        except (TimeoutError, DBAPIError):
            # Never back into the pool with a lock; a connection that ends frees it.
            await connection.invalidate()


def _reason(error: TimeoutError | PoolTimeout | DBAPIError) -> str:
    """What the driver or the server itself said, in one line: neither shows a password."""
    original = getattr(error, "orig", None)
    return str(original).strip().partition("\n")[0] if original is not None else ""


def _problem(error: TimeoutError | PoolTimeout | DBAPIError) -> str | None:
    """What is wrong with the server; None when the statement itself is wrong."""
    if isinstance(error, PoolTimeout):
        return "PostgreSQL: no connection became free in time"
    if isinstance(error, TimeoutError) or _sqlstate(error) in _LATE_SQLSTATES:
        return "PostgreSQL did not answer in time"
    if not _is_unreachable(error):
        return None
    return _PROBLEMS.get(_sqlstate(error) or "", "PostgreSQL cannot be reached")


def _is_unreachable(error: DBAPIError) -> bool:
    sqlstate = _sqlstate(error)
    if sqlstate is None:  # the driver itself gave up: refused, reset, timed out
        # Without a statement it failed while it connected: an option in the address, perhaps.
        return (
            error.connection_invalidated
            or error.statement is None
            or type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout"}
        )
    return sqlstate.startswith(_AWAY_PREFIXES)


def _raise_unless_conflict(error: DBAPIError, _pause_s: float) -> None:
    if _sqlstate(error) not in _RETRY_SQLSTATES:
        raise error


def _sqlstate(error: Exception) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlstate", None)
