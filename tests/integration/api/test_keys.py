"""Two keys on one API: two users who do not see each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api

KEYS = {"shop": "k-shop", "web": "k-web"}
CONFIGURED = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment, api_keys=CONFIGURED) as running:
        running.install()
        yield running


def ask(api: Api, name: str, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEYS[name]}"} | options.pop("headers", {})
    return api.client.request(method, path, headers=headers, **options)


def test_a_job_belongs_to_its_key_and_is_not_there_for_another(api: Api) -> None:
    job = ask(api, "shop", "POST", "/v1/jobs", json=BODY).json()["job"]["id"]
    assert api.sql('SELECT "user" FROM jobs') == [("shop",)]
    for rest in ("", "/artifacts", "/logs", "/progress", "/progress/stream"):
        assert ask(api, "web", "GET", f"/v1/jobs/{job}{rest}").status_code == 404
    assert ask(api, "web", "POST", f"/v1/jobs/{job}/cancel").status_code == 404
    assert ask(api, "web", "GET", "/v1/jobs").json()["jobs"] == []
    assert [each["id"] for each in ask(api, "shop", "GET", "/v1/jobs").json()["jobs"]] == [job]
    assert ask(api, "shop", "POST", f"/v1/jobs/{job}/cancel").json()["status"] == "cancelled"


def test_an_idempotency_key_is_its_users_own(api: Api) -> None:
    key = {"Idempotency-Key": "order-1"}
    one = ask(api, "shop", "POST", "/v1/jobs", json=BODY, headers=key)
    other = ask(api, "web", "POST", "/v1/jobs", json=BODY | {"seed": 1}, headers=key)
    assert (one.status_code, other.status_code) == (202, 202)
    assert one.json() != other.json()
    assert ask(api, "shop", "POST", "/v1/jobs", json=BODY, headers=key).json() == one.json()


def test_a_stranger_reaches_the_probes_and_nothing_else(api: Api) -> None:
    for path in ("/", "/page/app.js", "/healthz", "/readyz", "/docs", "/openapi.json", "/metrics"):
        assert api.client.get(path).status_code != 401
    for path in ("/v1/jobs", "/v1/models", "/v1/models/tiny", "/v1/jobs/x/logs", "/nowhere"):
        answer = api.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    big = api.client.post("/v1/jobs", content=b"[" * 500_000)
    assert big.status_code == 401  # and not what is wrong with the body
    assert api.sql("SELECT count(*) FROM jobs") == [(0,)]
