"""What an address of the database may say, and what may stand before the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
import psycopg
import pytest
from migrations.upgrade import upgrade
from sqlalchemy import text
from tests.support.api_harness import settings_of
from tests.support.infrastructure import Infrastructure
from tests.support.pooler import pooler

from shared import readiness
from shared.db.connect import SESSION_MS
from shared.db.engine import Connection, Database
from shared.errors import InfraUnavailable
from shared.readiness import NotReady, wait_for_parts

T = TypeVar("T")


def with_database(url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    async def main() -> T:
        database = Database(url)
        try:
            return await work(database)
        finally:
            await database.close()

    return anyio.run(main)


def show(url: str, *names: str) -> list[str]:
    async def work(connection: Connection) -> list[str]:
        # In a later transaction of the same connection, as everything that a service does.
        return [str(await connection.scalar(text(f"SHOW {name}"))) for name in names]

    async def twice(database: Database) -> list[str]:
        await database.ping()
        return await database.transaction(work)

    return with_database(url, twice)


def test_our_time_outs_are_those_of_every_session(database_url: str) -> None:
    shown = show(database_url, *SESSION_MS)
    assert shown == [f"{milliseconds // 1000}s" for milliseconds in SESSION_MS.values()]


def test_what_the_address_says_wins_and_the_rest_is_ours(database_url: str) -> None:
    said = f"{database_url}?options=-csearch_path%3Ddf%20-cstatement_timeout%3D7000"
    said += "&application_name=mine&connect_timeout=9"
    names = ("search_path", "statement_timeout", "lock_timeout", "application_name")
    assert show(said, *names) == ["df", "7s", "10s", "mine"]


def test_a_search_path_in_the_address_means_the_same_in_every_command(
    stack: Infrastructure, database_url: str
) -> None:
    """`migrate` makes the tables there, and the services look for them there."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
    try:
        url = f"{database_url}?options=-csearch_path%3Delsewhere"
        environment = {**stack.environment, "DF_DATABASE_URL": url}
        with pytest.raises(NotReady, match="dreamforge migrate"):
            anyio.run(wait_for_parts, settings_of(environment))
        upgrade(url)
        anyio.run(wait_for_parts, settings_of(environment))
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA elsewhere CASCADE")


@pytest.fixture
def own_schema(stack: Infrastructure, database_url: str) -> Iterator[str]:
    """A schema, to which ALTER ROLE leads the services' role and nobody else."""
    role = urlsplit(stack.services["DF_DATABASE_URL"]).username
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA own")
        connection.execute(f"ALTER ROLE {role} SET search_path = own".encode())
        try:
            yield "own"
        finally:
            connection.execute(f"ALTER ROLE {role} RESET search_path".encode())
            connection.execute("DROP SCHEMA own CASCADE")


def test_tables_in_another_schema_than_the_roles_are_named(
    stack: Infrastructure, own_schema: str
) -> None:
    with pytest.raises(NotReady, match=r"in the schema public, .*ALTER ROLE … SET search_path"):
        anyio.run(wait_for_parts, settings_of(stack.services))


def test_the_schema_of_a_role_works_where_both_roles_have_it(
    stack: Infrastructure, database_url: str, own_schema: str
) -> None:
    admin = f"{database_url}?options=-csearch_path%3D{own_schema}"
    upgrade(stack.services["DF_DATABASE_URL"], admin)
    anyio.run(wait_for_parts, settings_of(stack.services))


def test_a_search_path_that_leads_nowhere_ends_a_migration_with_a_line(database_url: str) -> None:
    url = f"{database_url}?options=-csearch_path%3Dnowhere"
    with pytest.raises(InfraUnavailable, match=r"^DF_DATABASE_URL: .*nowhere.*CREATE SCHEMA"):
        upgrade(url)


def test_a_pooler_by_session_works_and_our_time_outs_hold(
    stack: Infrastructure, database_url: str
) -> None:
    with pooler(database_url) as (url, before):
        upgrade(url)
        assert show(url, "statement_timeout", "lock_timeout") == ["15s", "10s"]
        assert with_database(url, Database.knows_sessions)
        anyio.run(wait_for_parts, settings_of({**stack.environment, "DF_DATABASE_URL": url}))
    assert before.refused == []


def test_a_pooler_by_transaction_that_does_not_show_itself_is_refused(
    stack: Infrastructure, database_url: str
) -> None:
    with pooler(database_url, by_transaction=True) as (url, _):
        settings = settings_of({**stack.environment, "DF_DATABASE_URL": url})
        with pytest.raises(NotReady, match=r"^DF_DATABASE_URL: .*let it pool by session"):
            anyio.run(wait_for_parts, settings)


ODD = {
    "a host that is not there": ("nowhere.invalid", "", "nowhere.invalid"),
    "a way that is none": ("", "?sslmode=maybe", 'invalid sslmode value: "maybe"'),
    "an option that is none": ("", "?colour=red", 'invalid URI query parameter: "colour"'),
    "a setting that is none": ("", "?options=-cfoo.bar%3D1%20-cno_such%3D1", "no_such"),
    "an option that is no number": ("", "?connect_timeout=soon", "connect_timeout"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_server_that_cannot_be_used_is_the_drivers_own_reason(
    name: str, stack: Infrastructure, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, query, says = ODD[name]
    url = database_url + query
    if host:
        url = url.replace("127.0.0.1", host)
    monkeypatch.setattr(readiness, "RETRY_S", 0.01)
    settings = settings_of({**stack.environment, "DF_DATABASE_URL": url}, startup_timeout_s=1.0)
    with pytest.raises(NotReady) as found:
        anyio.run(wait_for_parts, settings)
    assert says in str(found.value)
    with pytest.raises(InfraUnavailable) as refused:
        upgrade(url)
    assert says in str(refused.value)


def test_a_client_is_not_told_the_reason(database_url: str) -> None:
    url = f"{database_url}?sslmode=maybe"
    with pytest.raises(InfraUnavailable) as found:
        with_database(url, Database.ping)
    assert found.value.message == "PostgreSQL cannot be reached"
    assert "maybe" in str(found.value)


def test_a_server_that_cannot_write_is_found_by_a_write(database_url: str) -> None:
    """One that may use no disk for a sort stands for one whose disk is full."""
    with_database(database_url, Database.probe_write)
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET temp_file_limit = 0".encode())
        try:
            with_database(database_url, Database.ping)
            with pytest.raises(InfraUnavailable) as found:
                with_database(database_url, Database.probe_write)
        finally:
            connection.execute(f"ALTER DATABASE {name} RESET temp_file_limit".encode())
    assert "temp_file_limit" in found.value.reason
