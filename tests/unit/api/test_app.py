"""What is done when the application is made, and not with the first request."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest
from pydantic import ValidationError
from starlette.routing import Match
from tests.support.harness import settings_for_tests

from api.app import create_app
from api.export_openapi import application


def test_no_request_has_to_wait_for_routes_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    app = application()

    def late(**_: Any) -> None:
        raise AssertionError("compiled with a request")

    monkeypatch.setattr("fastapi.routing.get_dependant", late)
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": [], "root_path": ""}
    assert Match.FULL in [route.matches(scope)[0] for route in app.routes]


def test_a_path_of_a_proxy_is_in_the_page_and_in_the_document() -> None:
    app = create_app(settings_for_tests(root_path="/pictures/"))

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.get(path) for path in ("/openapi.json", "/docs", "/healthz")]

    document, page, health = anyio.run(main)
    assert document.json()["servers"] == [{"url": "/pictures"}]
    assert "href='/pictures/openapi.json'" in page.text
    assert "API=http://localhost/pictures\n" in page.text
    assert health.status_code == 200
    assert "servers" not in application().openapi()


@pytest.mark.parametrize("path", ["pictures", "/a b", "/<x>", "//x", "http://h/x", "/a?b"])
def test_a_path_that_is_none_is_refused_at_start(path: str) -> None:
    with pytest.raises(ValidationError, match="must be a path like /pictures"):
        settings_for_tests(root_path=path)
