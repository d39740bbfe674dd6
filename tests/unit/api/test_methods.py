"""Every address of both services, with every method: what it has no answer for is a 405."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import anyio
import httpx
import pytest
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from tests.support.routes import worker_app

from api.export_openapi import application

METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
)  # fmt: skip


def methods_by_path(app: Starlette) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for route in iter_route_contexts(app.routes):
        assert route.path is not None
        found[route.path] |= set(route.methods or ())
    return dict(found)


API, WORKER = application(), worker_app()
REFUSED = [
    pytest.param(app, path, method, id=f"{name} {method} {path}")
    for name, app in (("api", API), ("worker", WORKER))
    for path, methods in sorted(methods_by_path(app).items())
    for method in METHODS
    if method not in methods
]


def send(app: Starlette, method: str, path: str) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path)

    return anyio.run(main)


@pytest.mark.parametrize(("app", "path", "method"), REFUSED)
def test_a_method_that_an_address_does_not_have_is_refused_with_those_that_it_has(
    app: Starlette, path: str, method: str
) -> None:
    answer = send(app, method, path)
    assert answer.status_code == 405
    allowed = {name.strip() for name in answer.headers["Allow"].split(",")}
    assert allowed == methods_by_path(app)[path]
    if app is API and method != "HEAD":
        body: dict[str, Any] = answer.json()
        body = body.get("error", body)  # the shape of OpenAI's routes
        assert body["code"] == "method_not_allowed"
        if "correlation_id" in body:
            assert body["correlation_id"] == answer.headers["X-Request-Id"]


def test_the_document_answers_to_get_and_head() -> None:
    assert send(API, "GET", "/openapi.json").json() == API.openapi()
    assert send(API, "HEAD", "/openapi.json").status_code == 200
