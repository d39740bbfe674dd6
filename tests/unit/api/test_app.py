"""What is done when the application is made, and not with the first request."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Match

from api.export_openapi import application


def test_no_request_has_to_wait_for_routes_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    app = application()

    def late(**_: Any) -> None:
        raise AssertionError("compiled with a request")

    monkeypatch.setattr("fastapi.routing.get_dependant", late)
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": [], "root_path": ""}
    assert Match.FULL in [route.matches(scope)[0] for route in app.routes]
