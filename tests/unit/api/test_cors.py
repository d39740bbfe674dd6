"""Which web pages may read our answers."""

from __future__ import annotations

import anyio
import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from api import errors
from api.metrics import Metrics
from api.middleware.request import RequestMiddleware
from shared.auth import parse_api_keys
from shared.errors import InfraUnavailable
from shared.settings import Settings

PAGE = "https://app.example.org"


def send(
    method: str, path: str, headers: dict[str, str], *, origins: tuple[str, ...] = (PAGE,)
) -> httpx.Response:
    app = FastAPI()
    errors.install(app)

    @app.get("/open")
    async def open_() -> str:
        return "read me"

    @app.get("/away")
    async def away() -> None:
        raise InfraUnavailable("PostgreSQL cannot be reached")

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    keys = f"shop:{'0' * 64}" if path == "/keyed" else ""
    settings = Settings.model_construct(api_keys=parse_api_keys(keys), cors_origins=origins)
    app.add_middleware(RequestMiddleware, metrics=Metrics(), settings=settings)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)

    return anyio.run(main)


def granted(answer: httpx.Response) -> str | None:
    found: str | None = answer.headers.get("Access-Control-Allow-Origin")
    return found


def test_it_is_off_by_default() -> None:
    for method, more in (("GET", {}), ("OPTIONS", {"Access-Control-Request-Method": "GET"})):
        answer = send(method, "/open", {"Origin": PAGE} | more, origins=())
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [("/open", 200), ("/nowhere", 404), ("/away", 503), ("/broken", 500), ("/keyed", 401)],
)
def test_a_page_that_is_named_can_read_every_answer_and_its_headers(path: str, status: int) -> None:
    answer = send("GET", path, {"Origin": PAGE})
    assert (answer.status_code, granted(answer)) == (status, PAGE)
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert set(exposed) == {
        "Location",
        "Idempotent-Replayed",
        "X-Request-Id",
        "X-Client-Request-Id",
        "Retry-After",
    }
    assert answer.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.org", PAGE + ".evil.org", PAGE.upper(), PAGE + ":8443", "null", ""],
)
def test_any_other_page_cannot(origin: str) -> None:
    answer = send("GET", "/open", {"Origin": origin})
    assert granted(answer) is None
    assert answer.headers["Vary"] == "Origin"  # or a cache would hand out another page's answer
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    refused = send("OPTIONS", "/open", asked)
    assert (refused.status_code, granted(refused)) == (405, None)
    assert refused.json()["code"] == "method_not_allowed"


def test_a_preflight_needs_no_key_and_names_what_may_be_sent() -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    answer = send("OPTIONS", "/keyed", asked)
    assert (answer.status_code, granted(answer), answer.content) == (204, PAGE, b"")
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"
    allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"} <= set(allowed)


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
    given = {"s3_endpoint": "http://x", "s3_access_key": "x", "s3_secret_key": "x"}
    urls = {"database_url": "postgresql://x", "redis_url": "redis://x"}
    return Settings.model_validate(given | urls | {"cors_origins": origins})
