"""A standby of the tests' PostgreSQL, by streaming replication, which can take over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from tests.support.api_harness import until
from tests.support.infrastructure import Infrastructure
from tests.support.relay import at, server_of

from cli.processes.part import Helper
from cli.servers.postgres import Postgres
from cli.state_dir import StateDir


class Standby(Postgres):
    """A copy of the primary, which follows it. It knows the primary's roles and passwords."""

    name = "standby"
    title = "Standby"

    def __init__(self, home: StateDir, primary_url: str) -> None:
        super().__init__(home)
        self._primary_url = primary_url
        self._password = home.credential(Postgres.name)

    def prepare(self, helper: Helper) -> None:
        self._chown(self._folder)
        copy = ["-D", str(self._data), "-d", self._primary_url, "-R", "-c", "fast"]
        helper(self._run("pg_basebackup", *copy))


class Pair:
    """The primary of the stack and its standby. A commit waits until both have it."""

    def __init__(self, stack: Infrastructure) -> None:
        self._primary = stack.environment["DF_DATABASE_URL"]
        self._part = Standby(stack.home, self._primary)
        stack.manager.start([self._part])
        self._execute(self._primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: self._execute(self._primary, query) == 1, "the standby follows")

    @property
    def primary(self) -> tuple[str, int]:
        return server_of(self._primary)

    @property
    def standby(self) -> tuple[str, int]:
        return server_of(self._part.admin_url())

    def url_of_both(self, url: str) -> str:
        """The address with both servers, of which the one is meant that may be written."""
        host, port = self.standby
        both = at(url, *self.primary).replace(
            f":{self.primary[1]}/", f":{self.primary[1]},{host}:{port}/"
        )
        return f"{both}?target_session_attrs=read-write"

    def make_primary_read_only(self, *, read_only: bool = True) -> None:
        value = "on" if read_only else "off"
        self._execute(self._primary, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        query = "SHOW default_transaction_read_only"
        until(lambda: self._show(self._primary, query) == value, "it reads only")

    def promote(self) -> None:
        self._execute(self._part.admin_url(), "SELECT pg_promote()")

    def count(self, server: tuple[str, int], job: str) -> int:
        url = at(self._primary, *server)
        return int(self._execute(url, f"SELECT count(*) FROM jobs WHERE id = '{job}'"))

    def close(self, stack: Infrastructure) -> None:
        self._execute(self._primary, "ALTER SYSTEM RESET synchronous_standby_names")
        self.make_primary_read_only(read_only=False)
        stack.stop(self._part.name)
        shutil.rmtree(stack.home.folder(self._part.name) / "data")

    def _show(self, url: str, query: str) -> Any:
        with psycopg.connect(url) as connection:
            return (connection.execute(query.encode()).fetchone() or (None,))[0]

    def _execute(self, url: str, statement: str) -> Any:
        """One statement in a session that may write, and the server reads its settings anew."""
        options = "-cdefault_transaction_read_only=off"
        with psycopg.connect(url, autocommit=True, options=options) as connection:
            done = connection.execute(statement.encode())
            value = (done.fetchone() or (None,))[0] if done.description else None
            connection.execute("SELECT pg_reload_conf()")
        return value


@contextmanager
def with_standby(stack: Infrastructure) -> Iterator[Pair]:
    pair = Pair(stack)
    try:
        yield pair
    finally:
        pair.close(stack)
