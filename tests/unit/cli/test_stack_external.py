"""Settings that name a part replace ours, whole or not at all; ours come with packages."""

import os
import socket

import pytest

from cli.errors import StackError
from cli.processes.part import LocalServer
from cli.servers.broker import Broker
from cli.servers.embedded import SERVERS
from cli.servers.postgres import Postgres
from cli.servers.store import Store
from cli.stack import external


def test_nothing_set_means_nothing_external() -> None:
    empty = {"DF_DATABASE_URL": "", "DF_REDIS_URL": "", "DF_S3_ENDPOINT": ""}
    for server in SERVERS:
        assert external.find(server, {}) is None
        assert external.find(server, empty) is None


def test_an_address_says_host_and_port_and_no_secret() -> None:
    part = external.find(Postgres, {"DF_DATABASE_URL": "postgresql://u:secret@db.local/x"})
    assert part is not None
    assert part.address == "db.local:5432"
    assert "secret" not in repr(part)


@pytest.mark.parametrize("value", ["nonsense", "redis://:p@host:port/0", "redis://:6379"])
def test_a_setting_that_is_no_address_is_refused_by_name_and_unseen(value: str) -> None:
    with pytest.raises(StackError, match=r"^DF_REDIS_URL: ") as caught:
        external.find(Broker, {"DF_REDIS_URL": value})
    assert value not in str(caught.value)


def test_half_a_store_is_refused() -> None:
    with pytest.raises(StackError, match=r"DF_S3_ENDPOINT is set but DF_S3_ACCESS_KEY, DF_S3_SEC"):
        external.find(Store, {"DF_S3_ENDPOINT": "http://s3.local:9000"})


def test_a_part_that_nobody_serves_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        part = external.find(Broker, {"DF_REDIS_URL": f"redis://127.0.0.1:{port}/0"})
        assert part is not None
        assert part.unreachable() is None
    line = part.unreachable()
    assert line is not None
    assert f"127.0.0.1:{port} (DF_REDIS_URL)" in line


def test_one_of_several_servers_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        closed, port = unused.getsockname()[1], server.getsockname()[1]
        url = f"postgresql://u:secret@127.0.0.1:{closed},127.0.0.1:{port}/x"
        part = external.find(Postgres, {"DF_DATABASE_URL": url})
        assert part is not None
        assert part.address == f"127.0.0.1:{closed}, 127.0.0.1:{port}"
        assert part.unreachable() is None
    assert "cannot be reached" in (part.unreachable() or "")


@pytest.mark.parametrize("server", SERVERS)
def test_the_program_of_a_part_is_found_in_its_package(server: type[LocalServer]) -> None:
    program = server.find_program()
    assert program.name in {"postgres", "valkey-server", "juicefs"}
    assert os.access(program, os.X_OK)


@pytest.mark.parametrize("name", ["package", "program"])
def test_a_package_without_its_program_is_named_with_what_to_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not installed, and one of a platform that it brings nothing for."""
    monkeypatch.setattr(Store, name, "not-there")
    with pytest.raises(StackError, match=r"is not installed.*DF_S3_ENDPOINT, DF_S3_ACCESS_KEY, DF"):
        Store.find_program()
