"""Heads that are HTTP and odd: methods, targets, hosts, expectations and upgrades."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.api_harness import Api, running_api
from tests.support.infrastructure import Infrastructure
from tests.support.raw_http import enveloped, talk
from tests.support.routes import api_routes

PATHS = sorted({route.partition(" ")[2] for route in api_routes()})
METHODS = ["get", "GeT", "FOO", "M-SEARCH", "TRACE", "TRACK", "PROPFIND", "CONNECT", "PURGE",
           "!#$%&'*+-.^_`|~", "X" * 8000]  # fmt: skip


@pytest.fixture(scope="module")
def running(stack: Infrastructure) -> Iterator[Api]:
    with running_api(stack.environment) as serving:
        yield serving


@pytest.fixture
def api(running: Api, database_url: str) -> Api:
    return running


def status(answer: bytes) -> int:
    return int(answer.split(maxsplit=2)[1])


def head(method: str, target: str, *lines: str, host: str = "localhost") -> bytes:
    fields = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines]
    return "\r\n".join([*fields, "", ""]).encode()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:20])
def test_a_method_that_is_none_of_ours_is_refused_everywhere(api: Api, method: str) -> None:
    for path in [*PATHS, "/", "/nowhere", "/v1", "/v1/"]:
        assert status(talk(api.base, head(method, path))) in (404, 405), path


def test_options_and_head_say_nothing_and_break_nothing(api: Api) -> None:
    for path in PATHS:
        assert status(talk(api.base, head("OPTIONS", path))) == 405, path
        answer = talk(api.base, head("HEAD", path))
        assert status(answer) < 500, path
        assert answer.endswith(b"\r\n\r\n"), "an answer to HEAD has no body"


@pytest.mark.parametrize(
    "target",
    [
        "*",
        "//",
        "?",
        "?x",
        ".",
        "localhost:80",
        "http://localhost/v1/jobs/x",
        "http://evil.example/readyz",
        "http://localhost",
        "file:///etc/passwd",
        "/readyz/",
        "/readyz/..",
        "/readyz;x",
        "/readyz%00",
        "/readyz%0d%0aX:%20y",
        "/page/..%2f..%2f..%2fetc%2fpasswd",
        "/page/%2e%2e/v1/jobs",
        "/page//etc/passwd",
        "/page/%00",
        "\\\\evil\\share",
        "/{job_id}",
        "/%" * 4000,
    ],
    ids=lambda target: target[:20],
)
def test_a_target_that_is_no_address_of_ours_finds_nothing(api: Api, target: str) -> None:
    answer = talk(api.base, head("GET", target))
    enveloped(answer, 404)
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost/evil",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost:80:80",
        "localhost:",
        "localhost:999999",
        "[::1",
        "[::1]x",
        "[localhost]x",
        "2130706433",
        "0x7f.1",
        "127.1",
        "h" * 10_000,
    ],
    ids=lambda host: host[:20],
)
def test_a_host_that_is_not_ours_is_refused(api: Api, host: str) -> None:
    envelope = enveloped(talk(api.base, head("GET", "/v1/jobs", host=host)), 422)
    assert envelope["message"].startswith("Host: ")
    assert "evil" not in str(envelope)


@pytest.mark.parametrize(
    "lines",
    [
        ["Expect: 200-ok"],
        ["Expect: 100-continue, x"],
        ["Expect: 100-continue", "Content-Length: 2"],
        ["Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"],
        [
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ],
        ["Upgrade: TLS/1.0, HTTP/1.1"],
        ["Upgrade: \xe9"],
        ["Proxy-Connection: keep-alive", "Keep-Alive: timeout=9999999"],
        ["TE: trailers, deflate;q=0.5"],
        ["Trailer: Content-Length"],
        ["Range: bytes=0-0,1-1,2-2"],
        ["If-None-Match: *", "If-Modified-Since: \xff"],
        ["Accept: " + ",".join(["*/*;q=0.1"] * 500)],
        ["Accept-Encoding: gzip;q=x, br"],
        ["Content-Encoding: gzip"],
        ["Authorization: Bearer", "Authorization: Bearer x"],
        ["Cookie: " + "a=b; " * 500],
        ["X-Forwarded-Host: evil.example", "X-Forwarded-Proto: gopher", "Forwarded: host=evil"],
        ["X-HTTP-Method-Override: DELETE"],
        [f"X-{number}: y" for number in range(500)],
    ],
    ids=lambda lines: lines[0][:24],
)
def test_a_header_that_asks_for_what_we_have_not_changes_nothing(
    api: Api, lines: list[str]
) -> None:
    """An upgrade is an offer, which a server that does not know it passes over."""
    for path in ("/healthz", "/v1/models"):
        answer = talk(api.base, head("GET", path, "Connection: upgrade", *lines))
        final = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").removeprefix(
            b"HTTP/1.1 100 \r\n\r\n"
        )
        assert final.startswith(b"HTTP/1.1 200 "), answer[:200]
        assert b"evil" not in answer


def test_a_head_that_is_too_long_is_refused(api: Api) -> None:
    for line in ("X: " + "y" * 20_000, "Y" * 20_000 + ": x"):
        enveloped(talk(api.base, head("GET", "/healthz", line)), 400)
    enveloped(talk(api.base, head("GET", "/" + "z" * 20_000)), 400)
    enveloped(talk(api.base, head("GET", "/healthz", *["X: y"] * 5_000)), 400)
