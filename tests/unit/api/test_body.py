"""The body of a create: parsed once, and what is refused before its model is looked at."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from api import errors
from api.admission.body import SingleParseRoute
from api.admission.idempotency import fingerprint
from api.metrics import Metrics
from api.middleware.request import RequestMiddleware
from api.schemas.requests import CreateJob
from shared.settings import Settings

GOOD = {"type": "generate", "prompt": "a red apple", "chain": {"upscale": {"scale": 2}}}


def post(*bodies: bytes) -> list[httpx.Response]:
    router = APIRouter(route_class=SingleParseRoute)

    @router.post("/jobs")
    async def create(body: CreateJob, request: Request) -> list[str]:
        return [body.prompt, fingerprint(await request.json())]

    app = FastAPI()
    errors.install(app)
    app.include_router(router)
    settings = Settings.model_construct(cors_origins=())
    app.add_middleware(RequestMiddleware, metrics=Metrics(), settings=settings)

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            headers = {"Content-Type": "application/json"}
            return [await client.post("/jobs", content=each, headers=headers) for each in bodies]

    return anyio.run(main)


def test_a_create_parses_its_json_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def counted(text: str | bytes, **options: Any) -> Any:
        parsed.append(text)
        return json.JSONDecoder(**options).decode(bytes(text).decode())  # type: ignore[arg-type]

    body = json.dumps(GOOD).encode()
    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", counted)
        (answer,) = post(body)
    assert answer.status_code == 200
    assert parsed == [body]


def test_a_repeat_has_the_same_fingerprint_whatever_its_order_and_white_space() -> None:
    sent = json.dumps(GOOD).encode()
    again = json.dumps(dict(reversed(GOOD.items())), indent=2).encode()
    with_a_default = json.dumps(GOOD | {"count": 1}).encode()
    first, second, third = (answer.json() for answer in post(sent, again, with_a_default))
    assert first == second
    assert first != third


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"type": "generate", "prompt": "x", "prompt": "y"}', "prompt: is there more than once"),
        (b'{"chain": {"upscale": {"scale": 2, "scale": 4}}}', "scale: is there more than once"),
        (b"[" * 100_000 + b"]" * 100_000, "the body is nested too deeply"),
        (b'{"prompt": "\xff"}', "the body is not text in UTF-8"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a whole number in the body has too many digits"),
        (b'{"prompt": ', "the body is not JSON"),
        (b"null", "the body must be a JSON object"),
        (
            b'{"type": "generate", "prompt": "x", "guidance": NaN}',
            "guidance: Input should be a finite number",
        ),
    ],
    ids=["twice", "twice inside", "deep", "no UTF-8", "digits", "cut off", "null", "NaN"],
)
def test_what_cannot_be_read_one_way_only_is_refused(body: bytes, message: str) -> None:
    (answer,) = post(body)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_input"
    assert answer.json()["message"].startswith(message)
    assert answer.json()["details"]["errors"][0]["field"] in ("", message.partition(":")[0])
