"""What is done when the application is made, and not with the first request."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from starlette.routing import Match

from api.app import create_app
from shared.settings import Settings


def test_no_request_has_to_wait_for_routes_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    unused = SecretStr("unused")
    app = create_app(
        Settings.model_construct(
            database_url=unused,
            redis_url=unused,
            s3_endpoint="http://unused",
            s3_access_key=unused,
            s3_secret_key=unused,
        )
    )

    def late(**_: Any) -> None:
        raise AssertionError("compiled with a request")

    monkeypatch.setattr("fastapi.routing.get_dependant", late)
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": [], "root_path": ""}
    assert Match.FULL in [route.matches(scope)[0] for route in app.routes]
