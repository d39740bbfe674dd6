"""A PostgreSQL that answers late, or not at all, is *away*: nobody ends because of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

import anyio
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.support.stores import SUCCESS, InPostgres, claimed_job

from shared.db import engine
from shared.db.engine import Database
from shared.db.statement import Statement
from shared.errors import InfraUnavailable
from shared.events import Code, NewEvent
from shared.step_store import Claim

T = TypeVar("T")
P = ParamSpec("P")

Work = Callable[[AsyncConnection], Awaitable[object]]
Send = Callable[[AsyncConnection, str], Awaitable[object]]


async def by_sqlalchemy(connection: AsyncConnection, sql: str) -> None:
    await connection.execute(text(sql))


async def compiled(connection: AsyncConnection, sql: str) -> None:
    await Statement(text(sql)).run(connection)


both_ways = pytest.mark.parametrize("send", [by_sqlalchemy, compiled])


def away(url: str, work: Work) -> str:
    """Run `work` in a transaction, which must fail; return what the failure says."""

    async def main() -> str:
        database = Database(url)
        try:
            with pytest.raises(InfraUnavailable) as failed:
                await database.transaction(work)
            await database.ping()  # and the next one is served
        finally:
            await database.close()
        return failed.value.message

    return anyio.run(main)


def test_a_row_that_somebody_holds_too_long_is_no_error_of_ours(database_url: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
        await connection.execute(text("LOCK TABLE steps"))

    with psycopg.connect(database_url) as somebody:
        somebody.execute("LOCK TABLE steps")
        assert "in time" in away(database_url, work)


@both_ways
def test_a_statement_that_takes_too_long_is_no_error_of_ours(database_url: str, send: Send) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("SET LOCAL statement_timeout = '20ms'"))
        await send(connection, "SELECT pg_sleep(60)")

    assert "in time" in away(database_url, work)


@both_ways
def test_a_process_that_was_stopped_in_its_transaction_finds_it_ended_and_goes_on(
    database_url: str, send: Send
) -> None:
    """What SIGSTOP does to a worker between two statements: PostgreSQL hangs up meanwhile."""

    async def work(connection: AsyncConnection) -> None:
        limit = "SET LOCAL idle_in_transaction_session_timeout = '20ms'"
        backend = await connection.scalar(text("SELECT pg_backend_pid()"))
        await connection.execute(text(limit))
        until_gone(database_url, backend)
        await send(connection, "SELECT 1")

    away(database_url, work)


def until_gone(url: str, backend: int | None) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        while other.execute(sessions, (backend,)).fetchone() != (0,):
            continue


@both_ways
def test_a_standby_that_took_the_address_over_is_not_the_database(
    database_url: str, send: Send
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("SET TRANSACTION READ ONLY"))
        await send(connection, "DELETE FROM jobs")

    away(database_url, work)


@both_ways
def test_a_server_that_hangs_is_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, send: Send
) -> None:
    monkeypatch.setattr(engine, "ANSWER_TIMEOUT_S", 0.5)
    stopped: list[int] = []

    async def work(connection: AsyncConnection) -> None:
        backend = await connection.scalar(text("SELECT pg_backend_pid()"))
        assert backend is not None
        os.kill(backend, signal.SIGSTOP)
        stopped.append(backend)
        await send(connection, "SELECT 1")

    try:
        assert "in time" in away(database_url, work)
    finally:
        for backend in stopped:
            os.kill(backend, signal.SIGCONT)


@both_ways
def test_a_statement_of_ours_that_is_wrong_is_an_error_and_no_absence(
    database_url: str, send: Send
) -> None:
    """Or a bug would be tried again for ever."""

    async def main() -> None:
        database = Database(database_url)
        try:
            with pytest.raises(DBAPIError, match="no_table"):
                await database.transaction(send, "SELECT * FROM no_table")
            await database.ping()
        finally:
            await database.close()

    anyio.run(main)


@both_ways
def test_a_statement_that_is_cancelled_leaves_nothing_behind(database_url: str, send: Send) -> None:
    async def main() -> None:
        database = Database(database_url, pool_size=1)
        try:
            with anyio.move_on_after(0.2):
                await database.transaction(send, "SELECT pg_sleep(60)")
            await database.ping()
        finally:
            await database.close()

    anyio.run(main)


@pytest.mark.parametrize("how", ["left", "cancelled"])
def test_a_lock_is_given_up_with_a_server_that_hangs(
    database_url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whoever holds it must come away, also when it is being cancelled."""
    monkeypatch.setattr(engine, "ANSWER_TIMEOUT_S", 0.5)

    async def main() -> int:
        database = Database(database_url)
        try:
            with anyio.CancelScope() as scope:
                async with database.try_lock(LOCK) as acquired:
                    assert acquired
                    backend = holder_of(database_url)
                    os.kill(backend, signal.SIGSTOP)
                    if how == "cancelled":
                        scope.cancel()
                        await anyio.sleep_forever()
            return backend
        finally:
            await database.close()

    async def again() -> bool:
        database = Database(database_url)
        try:
            async with database.try_lock(LOCK) as acquired:
                return acquired
        finally:
            await database.close()

    with ended_at_last(database_url):
        anyio.run(main)
    assert anyio.run(again)


LOCK = 4711


def holder_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s", (LOCK,)
        ).fetchone()
    assert found is not None
    return int(found[0])


@contextmanager
def ended_at_last(url: str) -> Iterator[None]:
    """Let the backend that holds the lock go on; it finds that its client has gone, and ends."""
    try:
        yield
    finally:
        backend = holder_of(url)
        os.kill(backend, signal.SIGCONT)
        until_gone(url, backend)


# A commit without an answer -----------------------------------------------------------------------


class Forgetful(Database):
    """Does what it is told and says that it does not know, or fails before it is done."""

    lose: str | None = None

    async def transaction(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        lose, self.lose = self.lose, None

        async def cut(connection: AsyncConnection) -> T:
            await work(connection, *args, **kwargs)
            raise InfraUnavailable("the connection broke before the commit")

        if lose == "commit":
            return await super().transaction(cut)
        done = await super().transaction(work, *args, **kwargs)
        if lose == "answer":
            raise InfraUnavailable("the connection broke after the commit")
        return done


ONE, TWO, THREE = (NewEvent(code=Code.SIGNAL_SENT, message=word) for word in "abc")


def of_step(claim: Claim, *facts: NewEvent) -> list[NewEvent]:
    return [replace(fact, step_id=claim.step_id) for fact in facts]


@pytest.mark.parametrize("lost", ["answer", "commit"])
@pytest.mark.parametrize("lost_again", ["answer", "commit", None])
@pytest.mark.parametrize("between", [False, True])
def test_facts_whose_commit_was_not_answered_are_written_once(
    database_url: str, lost: str, lost_again: str | None, between: bool
) -> None:
    """The owner sends them again, then again with another fact, at last with its verdict."""

    async def main() -> None:
        database = Forgetful(database_url)
        try:
            subject = InPostgres(database, database_url)
            job, claim = await claimed_job(subject)
            store, facts = subject.store, of_step(claim, ONE, TWO, THREE)
            database.lose = lost
            with pytest.raises(InfraUnavailable):
                await store.record(claim, None, facts[:1])
            if between:
                await subject.cancel(job)
            database.lose = lost_again
            if lost_again is None:
                await store.record(claim, None, facts[:1])
                await store.record(claim, None, facts[1:2])
                left = facts[2:]
            else:
                with pytest.raises(InfraUnavailable):
                    await store.record(claim, None, facts[:2])
                left = facts
            await store.finish(claim, replace(SUCCESS, events=left))
        finally:
            await database.close()
        with psycopg.connect(database_url) as connection:
            told = "SELECT message FROM events WHERE code = 'signal.sent' ORDER BY seq"
            assert [word for (word,) in connection.execute(told)] == ["a", "b", "c"]
            whole = "SELECT array_agg(seq ORDER BY seq) FROM events"
            (seqs,) = connection.execute(whole).fetchone() or ([],)
            assert seqs == list(range(1, len(seqs) + 1))

    anyio.run(main)
