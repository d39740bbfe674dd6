"""PostgreSQL, broker and store that other hosts reach: they listen on their host's own address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from cli.processes.part import Command, Helper, LocalServer
from cli.servers.broker import Broker
from cli.servers.postgres import Postgres
from cli.servers.store import Store
from cli.stack import infrastructure

LOOPBACK = "127.0.0.1"


def reachable_servers(address: str) -> tuple[type[LocalServer], ...]:
    network = f"{address.rpartition('.')[0]}.0/24"

    class OpenPostgres(Postgres):
        def prepare(self, helper: Helper) -> None:
            super().prepare(helper)
            with (self._data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
                rules.write(f"host all all {network} scram-sha-256\n")

        def command(self) -> Command:
            return _elsewhere(super().command(), address)

        def address(self) -> str:
            return f"{address}:{self._port}"

    class OpenBroker(Broker):
        def prepare(self, helper: Helper) -> None:
            super().prepare(helper)
            self._config.write_text(self._config.read_text().replace(LOOPBACK, address))

        def address(self) -> str:
            return f"{address}:{self._port}"

    class OpenStore(Store):
        def address(self) -> str:
            return f"{address}:{self._port}"

    return OpenPostgres, OpenBroker, OpenStore


def _elsewhere(command: Command, address: str) -> Command:
    return replace(command, argv=tuple(each.replace(LOOPBACK, address) for each in command.argv))


@contextmanager
def open_servers(address: str) -> Iterator[None]:
    """Meanwhile the infrastructure consists of these servers."""
    with patch.object(infrastructure, "SERVERS", reachable_servers(address)):
        yield
