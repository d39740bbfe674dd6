"""Proxies of the environment that no client can use: a line with the variable, or no client."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cli.client import proxies
from cli.client.http import Client
from cli.download.fetch import fetch_files
from cli.download.huggingface import resolve
from cli.download.local import resolve_local
from cli.download.source import Reference
from cli.download.transfer import OnBytes, Transfer
from cli.errors import Failure


class NoDisplay:
    def begin(self, path: str, total_bytes: int | None) -> OnBytes:
        return lambda seen_bytes: None


UNUSABLE = [
    ("ALL_PROXY", "socks://user:Secret@127.0.0.1:9"),
    ("all_proxy", "socks4://127.0.0.1:9"),
    ("HTTPS_PROXY", "ftp://user:Secret@127.0.0.1:9"),
    ("http_proxy", "http://user:Sec/ret@127.0.0.1:9"),
    ("NO_PROXY", "fd07:b51a::/64"),
    ("no_proxy", "localhost,fd07:b51a::/64"),
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(("name", "value"), UNUSABLE)
@pytest.mark.parametrize("made", ["api", "transfer", "hub"])
def test_a_proxy_that_cannot_be_used_is_a_line_with_its_variable(
    made: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Failure) as found:
        match made:
            case "api":
                Client("http://dreamforge.internal:8001")
            case "transfer":
                Transfer(credential=None, remedy="")
            case _:
                resolve(Reference(scheme="hf", rest="owner/name"))
    assert found.value.message.startswith(f"{name}: ")
    assert "Sec" not in found.value.message + found.value.hint


def test_a_library_that_is_missing_for_a_proxy_is_said_the_same_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """httpx wants another package for SOCKS5, and raises ImportError without it."""

    def missing(**_: object) -> httpx.Client:
        raise ImportError("socksio")

    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr(httpx, "Client", missing)
    with pytest.raises(Failure, match=r"^ALL_PROXY: "):
        proxies.open_client()


@pytest.mark.parametrize(("name", "value"), UNUSABLE)
def test_what_is_on_this_host_needs_no_client(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    resolved = resolve_local(folder, tmp_path / "models")
    fetch_files(resolved, tmp_path / "work", NoDisplay(), parallel=1)
    assert (tmp_path / "work/model/model_index.json").read_text() == "{}"


def test_an_api_on_this_host_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    Client("http://[::1]:8001").http.close()
