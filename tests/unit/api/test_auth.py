"""Which requests the middleware lets in, on an application of its own."""

from __future__ import annotations

import hashlib
import hmac

import anyio
import httpx
import pytest
from fastapi import FastAPI

from api import errors
from api.metrics import Metrics
from api.middleware.auth import User
from api.middleware.request import RequestMiddleware
from shared.auth import parse_api_keys
from shared.settings import Settings

KEYS = {"shop": "k-shop", "web": "k-web"}
CONFIGURED = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)


def send(
    path: str = "/who",
    *authorization: str | bytes,
    keys: str = CONFIGURED,
    host: str = "127.0.0.1",
) -> httpx.Response:
    app = FastAPI(redirect_slashes=False)
    errors.install(app)

    @app.get("/who")
    async def who(user: User) -> str:
        return user

    @app.get("/metrics")
    @app.get("/healthz")
    @app.get("/readyz")
    async def unprotected() -> str:
        return "unprotected"

    settings = Settings.model_construct(api_keys=parse_api_keys(keys), api_host=host)
    app.add_middleware(RequestMiddleware, metrics=Metrics(), settings=settings)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        headers = [
            (b"Authorization", value if isinstance(value, bytes) else value.encode())
            for value in authorization
        ]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=headers)

    return anyio.run(main)


def refused(answer: httpx.Response) -> None:
    body = answer.json()
    assert (answer.status_code, body["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert body["correlation_id"] == answer.headers["X-Request-Id"]
    assert "k-" not in answer.text


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_a_key_makes_its_name_the_user(name: str, scheme: str) -> None:
    assert send("/who", scheme + KEYS[name]).json() == name


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer wrong",),
        ("Bearer K-SHOP",),
        ("Bearer k-sho",),
        ("Bearer k-shop k-web",),
        ("Bearer " + hashlib.sha256(b"k-shop").hexdigest(),),
        ("k-shop",),
        ("Basic k-shop",),
        ("Bearer k-shop", "Bearer k-web"),
        ("Bearer k\xe9y",),
        ("Bearer " + "x" * 60_000,),
    ],
)
def test_anything_else_gets_the_same_answer(authorization: tuple[str, ...]) -> None:
    refused(send("/who", *[value.encode("latin-1") for value in authorization]))


def test_without_keys_everybody_is_default_whatever_they_send() -> None:
    assert send("/who", keys="").json() == "default"
    assert send("/who", "Bearer anything", keys="").json() == "default"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_probes_are_open(path: str, host: str) -> None:
    assert send(path, host=host).json() == "unprotected"
    assert send(path, "Bearer wrong", host=host).status_code == 200


def test_metrics_need_a_key_where_the_network_can_reach_them() -> None:
    assert send("/metrics", host="127.0.0.1").status_code == 200
    refused(send("/metrics", host="0.0.0.0"))
    assert send("/metrics", "Bearer k-web", host="0.0.0.0").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/who/",
        "http://localhost//healthz",
        "/page",
        "/pages/app.js",
        "/healthz/",
        "/healthz/../who",
    ],
)
def test_what_nobody_opened_is_closed_even_where_there_is_nothing(path: str) -> None:
    refused(send(path))
    assert send(path, "Bearer k-shop").status_code in {200, 404}


def test_every_hash_is_compared_whichever_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    compare = hmac.compare_digest

    def counted(ours: bytes, theirs: bytes) -> bool:
        seen.append(theirs)
        return compare(ours, theirs)

    monkeypatch.setattr("shared.auth.hmac.compare_digest", counted)
    for key in ("k-shop", "k-web", "neither"):
        seen.clear()
        send("/who", f"Bearer {key}")
        assert len(seen) == len(KEYS)
