"""Which names an API without keys answers to."""

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
from shared.settings import Settings


def ask(*hosts: str, allowed: tuple[str, ...] = (), keys: str = "") -> httpx.Response:
    app = FastAPI()
    errors.install(app)

    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    settings = Settings.model_construct(allowed_hosts=allowed, api_keys=parse_api_keys(keys))
    app.add_middleware(RequestMiddleware, metrics=Metrics(), settings=settings)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            request = client.build_request("GET", "/healthz")
            request.headers = httpx.Headers([("Host", host) for host in hosts])
            return await client.send(request)

    return anyio.run(main)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8001",
        "127.8.8.8:1",
        "localhost",
        "LOCALHOST:8001",
        "[::1]",
        "[::1]:8001",
    ],
)
def test_loopback_is_answered_on_any_port(host: str) -> None:
    assert ask(host).status_code == 200


@pytest.mark.parametrize(
    "hosts",
    [
        ("evil.example.org",),
        ("evil.example.org:8001",),
        ("localhost.evil.example.org",),
        ("127.0.0.1.evil.example.org:8001",),
        ("localhost@evil.example.org",),
        ("192.168.1.5:8001",),
        ("0.0.0.0:8001",),
        ("[::1",),
        ("[fe80::1]:8001",),
        ("",),
        (),
        ("localhost", "evil.example.org"),
    ],
)
def test_any_other_name_is_refused_on_every_address_and_told_why(hosts: tuple[str, ...]) -> None:
    answer = ask(*hosts)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "invalid_input")
    (finding,) = body["details"]["errors"]
    assert (finding["field"], body["details"]["field"]) == ("Host", "Host")
    assert "DF_ALLOWED_HOSTS" in body["message"]
    assert body["correlation_id"] == answer.headers["X-Request-Id"]


def test_names_can_be_added() -> None:
    allowed = ("render.internal",)
    assert ask("Render.Internal:80", allowed=allowed).status_code == 200
    assert ask("localhost", allowed=allowed).status_code == 200
    assert ask("other.internal", allowed=allowed).status_code == 422


def test_with_keys_any_name_will_do() -> None:
    assert ask("render.example.org", keys=f"shop:{'0' * 64}").status_code == 200


@pytest.mark.parametrize("text", ["*", "a.b:80", "https://a.b", "A.b", "a..b", "a b", "[::1]"])
def test_what_is_no_name_is_refused_at_start(text: str) -> None:
    facts = {"s3_endpoint": "http://x", "s3_access_key": "x", "s3_secret_key": "x"}
    urls = {"database_url": "postgresql://x", "redis_url": "redis://x"}
    Settings.model_validate(facts | urls | {"allowed_hosts": "a.b, c-d.e_f"})
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(facts | urls | {"allowed_hosts": text})
    (error,) = caught.value.errors()
    assert error["loc"] == ("allowed_hosts",)
