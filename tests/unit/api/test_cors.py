"""Which web pages may read our answers."""

from __future__ import annotations

import logging
import re
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr, ValidationError

from api.app import create_app
from shared.auth import parse_api_keys
from shared.errors import RateLimited
from shared.settings import Settings

PAGE = "https://app.example.org"


def send(
    method: str,
    path: str,
    headers: dict[str, str],
    *,
    origins: tuple[str, ...] = (PAGE,),
    keys: str = "",
    body: bytes = b"",
) -> httpx.Response:
    """The answer of the whole application, whose database is away."""
    app = create_app(
        Settings.model_construct(
            database_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing"),
            redis_url=SecretStr("redis://127.0.0.1:1/0"),
            s3_endpoint="http://127.0.0.1:1",
            s3_access_key=SecretStr("unused"),
            s3_secret_key=SecretStr("unused"),
            api_keys=parse_api_keys(keys),
            cors_origins=origins,
        )
    )

    @app.get("/limited")
    async def limited() -> None:
        raise RateLimited("too many", retry_after_s=1)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            return await client.request(method, path, headers=headers, content=body)

    return anyio.run(main)


def granted(answer: httpx.Response) -> str | None:
    origin: str | None = answer.headers.get("Access-Control-Allow-Origin")
    return origin


def test_it_is_off_by_default() -> None:
    for method, more in (("GET", {}), ("OPTIONS", {"Access-Control-Request-Method": "GET"})):
        answer = send(method, "/healthz", {"Origin": PAGE} | more, origins=())
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "Vary" not in answer.headers


JSON = {"Content-Type": "application/json"}
# What a page may read of every answer, and what is for its browser alone.
READABLE_ANYHOW = {
    *("cache-control", "content-length", "content-type", "connection"),
    *("vary", "x-content-type-options"),
}


@pytest.mark.parametrize(
    ("request_line", "more", "status"),
    [
        ("GET /healthz", {}, 200),
        ("GET /v1/jobs", {"keys": f"shop:{'0' * 64}"}, 401),
        ("GET /nowhere", {}, 404),
        ("DELETE /v1/jobs", {}, 405),
        ("POST /v1/jobs", {"body": bytes(2 << 20)}, 413),
        ("POST /v1/jobs", {"body": b"{}"}, 422),
        ("GET /v1/jobs?limit=0", {}, 422),
        ("GET /v1/jobs/x/cancel", {}, 405),
        ("GET /limited", {}, 429),
        ("GET /broken", {}, 500),
        ("GET /v1/jobs", {}, 503),
    ],
)
def test_a_page_that_is_named_can_read_every_answer_and_its_headers(
    request_line: str, more: dict[str, Any], status: int
) -> None:
    method, path = request_line.split()
    answer = send(method, path, {"Origin": PAGE} | JSON, **more)
    assert (answer.status_code, granted(answer)) == (status, PAGE)
    assert len(answer.headers["X-Request-Id"]) == 32
    if status >= 400:
        assert answer.json()["correlation_id"] == answer.headers["X-Request-Id"]
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert set(exposed) == {
        "Location",
        "Idempotent-Replayed",
        "Preference-Applied",
        "X-Job-Id",
        "X-Request-Id",
        "X-Client-Request-Id",
        "Retry-After",
        "X-Should-Retry",
        "Allow",
        "WWW-Authenticate",
    }
    own = {name for name in answer.headers if not name.startswith("access-control-")}
    assert own - READABLE_ANYHOW <= {name.lower() for name in exposed}
    assert answer.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.org", PAGE + ".evil.org", PAGE.upper(), PAGE + ":8443", "null", ""],
)
def test_any_other_page_cannot(origin: str) -> None:
    answer = send("GET", "/healthz", {"Origin": origin})
    assert granted(answer) is None
    assert answer.headers["Vary"] == "Origin"  # or a cache would hand out another page's answer
    headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    refused = send("OPTIONS", "/healthz", headers)
    assert (refused.status_code, granted(refused)) == (405, None)
    assert refused.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_preflight_needs_no_key_and_names_what_may_be_sent(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "tracestate,baggage, sentry-trace,AUTHORIZATION",
    }
    answer = send("OPTIONS", "/v1/jobs", headers, keys=f"shop:{'0' * 64}")
    assert (answer.status_code, granted(answer), answer.content) == (204, PAGE, b"")
    methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"GET", "POST", method} == set(methods)
    assert answer.headers["Access-Control-Max-Age"] == "600"
    (line,) = [each for each in caplog.records if each.name == "api.middleware.cors"]
    assert vars(line)["correlation_id"] == answer.headers["X-Request-Id"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert {"Origin", "Access-Control-Request-Headers"} <= set(answer.headers["Vary"].split(", "))
    allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert {
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "Last-Event-ID",
        "Prefer",
        "X-Client-Request-Id",
        "Traceparent",
        "tracestate",
        "baggage",
        "sentry-trace",
    } == set(allowed)


@pytest.mark.parametrize(
    "asked", ["a b", "x: y", "x(", "x" * 129, ",".join(f"h{n}" for n in range(1000)), "", ","]
)
def test_a_preflight_gives_back_names_only_and_not_without_end(asked: str) -> None:
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": asked,
    }
    answer = send("OPTIONS", "/v1/jobs", headers)
    allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert all(re.fullmatch(r"[A-Za-z0-9-]{1,128}", name) for name in allowed)
    assert len(allowed) <= 107


def test_options_that_is_no_preflight_is_refused_and_readable() -> None:
    answer = send("OPTIONS", "/v1/jobs", {"Origin": PAGE})
    assert (answer.status_code, granted(answer)) == (405, PAGE)


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "app.example.org",
        PAGE + "/",
        PAGE + "/path",
        "https://App.example.org",
        "https://*.example.org",
        "null",
        "ftp://x",
        "https://x:443",
        "http://x:80",
        "https://a,b",
        "https://a\r\nX: y",
    ],
)
def test_what_no_browser_sends_is_refused_at_start(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(text)
    (error,) = caught.value.errors()
    assert error["loc"] == ("cors_origins",)


def test_several_origins_are_read() -> None:
    settings = read(f"{PAGE}, http://localhost:3000,http://[::1]:3000")
    assert settings.cors_origins == (PAGE, "http://localhost:3000", "http://[::1]:3000")


def read(origins: str) -> Settings:
    facts = {"s3_endpoint": "http://x", "s3_access_key": "x", "s3_secret_key": "x"}
    urls = {"database_url": "postgresql://x", "redis_url": "redis://x"}
    return Settings.model_validate(facts | urls | {"cors_origins": origins})
