"""Behind the real PgBouncer: what works there, and what is refused with what to change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import anyio
import psycopg
import pytest
from migrations.upgrade import upgrade
from sqlalchemy import text
from tests.support.api_harness import settings_of
from tests.support.infrastructure import Infrastructure
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer

from shared.db.connect import SESSION_MS
from shared.db.engine import Connection, Database
from shared.errors import InfraUnavailable
from shared.readiness import NotReady, wait_for_parts

pytestmark = needs_pgbouncer

T = TypeVar("T")
TIMES = [f"{milliseconds // 1000}s" for milliseconds in SESSION_MS.values()]
LOCK = 4712


@pytest.fixture(scope="module")
def shared_url(stack: Infrastructure, migrated_url: str) -> Iterator[str]:
    """The services' address, by a pooler that pools by transaction."""
    with pgbouncer(stack.services["DF_DATABASE_URL"], migrated_url, mode="transaction") as url:
        yield url


def with_database(url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    async def main() -> T:
        database = Database(url)
        try:
            return await work(database)
        finally:
            await database.close()

    return anyio.run(main)


def wait(stack: Infrastructure, url: str) -> None:
    environment = {**stack.services, "DF_DATABASE_URL": url}
    anyio.run(wait_for_parts, settings_of(environment, startup_timeout_s=0.5))


async def times(connection: Connection) -> list[str]:
    return [str(await connection.scalar(text(f"SHOW {name}"))) for name in SESSION_MS]


def test_the_services_start_behind_a_pooler_by_transaction(
    stack: Infrastructure, shared_url: str
) -> None:
    wait(stack, shared_url)


def test_a_session_is_used_as_the_poolers_where_it_pools_by_session(
    stack: Infrastructure, migrated_url: str
) -> None:
    with pgbouncer(stack.services["DF_DATABASE_URL"], migrated_url, mode="session") as url:
        wait(stack, url)
        upgrade(url.replace(url.partition("@")[0], migrated_url.partition("@")[0]))
        assert with_database(url, lambda each: each.transaction(times)) == TIMES


def test_many_transactions_share_few_sessions_and_each_has_our_time_outs(shared_url: str) -> None:
    """Twelve clients, three sessions; the same statements so often that a driver prepares them."""

    async def work(database: Database) -> list[list[str]]:
        seen: list[list[str]] = []

        async def client(number: int) -> None:
            for turn in range(12):
                run = database.statement if (number + turn) % 2 else database.transaction
                seen.append(await run(times))

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(client, number)
        return seen

    assert with_database(shared_url, work) == [TIMES] * 144


def test_nothing_of_ours_stays_in_a_session_that_others_use_next(shared_url: str) -> None:
    """No time-out, no prepared statement and no lock."""

    async def work(database: Database) -> None:
        for _ in range(10):
            await database.ping()
            await database.statement(times)
        async with database.try_lock(LOCK) as acquired:
            assert acquired

    with_database(shared_url, work)
    with psycopg.connect(shared_url, autocommit=True, prepare_threshold=None) as other:
        for _ in range(6):
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
            left = "SELECT count(*) FROM pg_prepared_statements"
            assert other.execute(left).fetchone() == (0,)
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s"
        assert other.execute(held, (LOCK,)).fetchone() == (0,)


def test_a_failed_statement_leaves_no_transaction_behind(shared_url: str) -> None:
    async def fails(connection: Connection) -> None:
        await connection.execute(text("SELECT 1 / 0"))

    async def work(database: Database) -> list[str]:
        for run in (database.statement, database.transaction) * 4:
            with pytest.raises(Exception, match="division by zero"):
                await run(fails)
        return await database.statement(times)

    assert with_database(shared_url, work) == TIMES


def test_a_lock_is_held_for_as_long_as_its_block_and_by_one(shared_url: str) -> None:
    async def work(database: Database) -> list[bool]:
        async with database.try_lock(LOCK) as first:
            for _ in range(5):
                await database.ping()
            async with database.try_lock(LOCK) as second:
                pass
        async with database.try_lock(LOCK) as third:
            return [first, second, third]

    assert with_database(shared_url, work) == [True, False, True]


def test_a_migration_needs_a_session_and_says_so(
    stack: Infrastructure, shared_url: str, migrated_url: str
) -> None:
    with pytest.raises(InfraUnavailable, match=r"^DF_DATABASE_URL: .*PostgreSQL's own address"):
        upgrade(shared_url)
    admin = shared_url.replace(shared_url.partition("@")[0], migrated_url.partition("@")[0])
    with pytest.raises(InfraUnavailable, match=r"^DF_ADMIN_DATABASE_URL: "):
        upgrade(stack.services["DF_DATABASE_URL"], admin)


def test_a_pooler_by_statement_is_refused_with_what_to_set(stack: Infrastructure) -> None:
    with pgbouncer(stack.services["DF_DATABASE_URL"], mode="statement") as url:
        with pytest.raises(NotReady, match=r"^DF_DATABASE_URL: .*pool by transaction or by sess"):
            wait(stack, url)


def test_a_pooler_that_refuses_options_is_named_with_what_to_do(
    stack: Infrastructure, shared_url: str
) -> None:
    with pytest.raises(NotReady, match=r"^DF_DATABASE_URL: .*options.*ALTER ROLE"):
        wait(stack, f"{shared_url}?options=-csearch_path%3Ddf")


def test_options_that_a_pooler_drops_are_named(stack: Infrastructure) -> None:
    """Else the services would work in another schema than the address says."""
    with pgbouncer(
        stack.services["DF_DATABASE_URL"],
        mode="transaction",
        ignore_startup_parameters="options",
    ) as url:
        wait(stack, url)
        with pytest.raises(NotReady, match=r"^DF_DATABASE_URL: search_path in `options` has no"):
            wait(stack, f"{url}?options=-csearch_path%3Dpublic")
