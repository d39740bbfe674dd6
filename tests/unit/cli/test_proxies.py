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
from cli.download.retry import RetryPolicy
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
    ("HTTP_PROXY", "http://Secret:x@127.0.0.1:99999"),
    ("ALL_PROXY", " http://127.0.0.1:9"),
    ("HTTPS_PROXY", "http://"),
    ("ALL_PROXY", "http://127.0.0.1\x01:9"),
    ("NO_PROXY", "[::1]"),
    ("SSL_CERT_FILE", "/nothing/there"),
    ("SSLKEYLOGFILE", "/nothing/there"),
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


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


def test_of_two_spellings_the_one_that_counts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "fd07:b51a::/64")
    with pytest.raises(Failure, match=r"^no_proxy: "):
        proxies.open_client()


@pytest.mark.parametrize(
    ("url", "proxy", "why"),
    [
        ("http://127.0.0.1:1/x", None, "cannot be reached: [Errno 111] Connection refused"),
        ("http://h.invalid/x", "http://u:Secret@127.0.0.1:1", "through http_proxy: [Errno 111]"),
        ("http://h.invalid/x", None, "cannot be reached: [Errno -"),
        ("http://xn--:1/x", None, "no address of a host"),
    ],
)
def test_why_a_host_is_not_reached_is_said(
    url: str, proxy: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy is not None:
        monkeypatch.setenv("http_proxy", proxy)
    transfer = Transfer(credential=None, remedy="", policy=RetryPolicy(attempts=1))
    with pytest.raises(Failure) as found:
        transfer.get_json(url, "what")
    assert why in found.value.message
    assert "Secret" not in found.value.message


def test_an_api_behind_a_proxy_that_is_away_names_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://u:Secret@127.0.0.1:1")
    with pytest.raises(Failure) as found, Client("http://h.invalid") as client:
        client.models()
    assert "(through HTTP_PROXY)" in found.value.message
    assert "Secret" not in found.value.message


def test_a_certificate_that_is_not_trusted_is_said_at_once() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    transfer = Transfer(credential=None, remedy="")
    transfer._client = httpx.Client(transport=httpx.MockTransport(refuse))
    with pytest.raises(Failure, match=r"not trusted: .*self-signed") as found:
        transfer.get_json("https://h.invalid/x", "what")
    assert "SSL_CERT_FILE" in found.value.hint


def test_an_answer_that_cannot_be_unpacked_is_no_sign_in() -> None:
    def packed(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "x-none"}, content=b"\x1b\x00")

    transfer = Transfer(credential=None, remedy="")
    transfer._client = httpx.Client(transport=httpx.MockTransport(packed))
    with pytest.raises(Failure, match=r"h\.invalid sends it compressed \(x-none\), unasked"):
        transfer.get_json("https://h.invalid/x", "what")
