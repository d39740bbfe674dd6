"""Where the API binds, and what it says when it cannot."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from api import server as serve_module
from api.server import bind, serve
from shared.addresses import address_of
from shared.auth import ApiKey, is_loopback
from shared.settings import Settings


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` sets up a whole process; here it must leave ours alone."""
    monkeypatch.setattr(serve_module, "configure_logging", lambda level: None)
    monkeypatch.setattr(serve_module, "forget_secrets", lambda: None)


def settings(**changes: Any) -> Settings:
    unused = SecretStr("unused")
    values: dict[str, Any] = {
        "database_url": SecretStr("postgresql://df:hunter2@127.0.0.1:1/x"),
        "redis_url": SecretStr("redis://127.0.0.1:1/0"),
        "s3_endpoint": "http://127.0.0.1:1",
        "s3_access_key": unused,
        "s3_secret_key": unused,
        "startup_timeout_s": 0.0,
        "api_port": 0,
    }
    return Settings.model_construct(**(values | changes))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org"])
def test_everything_else_is_the_network(host: str) -> None:
    assert not is_loopback(host)


def test_without_keys_the_network_is_not_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(settings(api_host="0.0.0.0")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "DF_API_HOST=0.0.0.0" in line
    assert "DF_API_KEYS" in line


def test_with_keys_the_network_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    key = ApiKey(name="shop", sha256=bytes(32))
    assert serve(settings(api_host="0.0.0.0", api_keys=(key,))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("api: DF_DATABASE_URL: ")  # bound, and on to the next check


def test_a_port_in_use_is_named_with_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert serve(settings(api_port=port)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} is in use" in line
    assert "DF_API_PORT" in line


@pytest.mark.parametrize(
    ("variable", "content", "why"),
    [
        ("SSL_CERT_FILE", None, "No such file"),
        ("SSL_CERT_FILE", "no certificate", "no certificate in PEM"),
        ("SSLKEYLOGFILE", None, "No such file"),
    ],
)
def test_a_file_for_tls_that_cannot_be_used_is_a_line_with_its_variable(
    variable: str,
    content: str | None,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "folder" / "file"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    assert serve(settings()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"api: {variable}: {path}: ")
    assert why in line


def test_an_absent_database_ends_the_start_with_setting_and_address_and_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert serve(settings()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("api: DF_DATABASE_URL: ")
    assert "127.0.0.1:1" in line
    assert "hunter2" not in line


def test_a_bound_socket_does_not_take_connections_before_it_serves() -> None:
    with bind("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname()).close()


def test_an_address_is_shown_without_its_secret() -> None:
    assert address_of("postgresql://user:pass@db.internal:5432/x") == "db.internal:5432"
    assert address_of("http://store") == "store"
