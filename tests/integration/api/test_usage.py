"""`GET /v1/usage`: who sees which rows, by which days and models, page by page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api

from cli.main import run

KEYS = {"ada": "k-ada", "bob": "k-bob", "operator": "k-operator"}
CONFIGURED = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)
TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
def serving(stack: Any, migrated_url: str) -> Iterator[Api]:
    with running_api(stack.environment, api_keys=CONFIGURED, admin_keys=("operator",)) as running:
        yield running


@pytest.fixture
def api(serving: Api, database_url: str) -> Api:
    return serving


def get(api: Api, name: str, **query: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    days = {"to": str(TODAY)} | query  # the suite may run past midnight
    return api.client.get("/v1/usage", headers=headers, params=days)


def add(api: Api, user: str, days_ago: int = 0, model: str = "tiny@1", pictures: int = 1) -> None:
    api.sql(
        'INSERT INTO usage (day, "user", model, pictures) VALUES (%s, %s, %s, %s)',
        TODAY - timedelta(days=days_ago),
        user,
        model,
        pictures,
    )


def seen(answer: httpx.Response) -> list[tuple[str, str | None]]:
    assert answer.status_code == 200, answer.text
    return [(row["user"], row["model"]) for row in answer.json()["usage"]]


def test_a_job_that_ended_is_in_its_users_row(api: Api) -> None:
    api.install()
    headers = {"Authorization": f"Bearer {KEYS['ada']}"}
    job = api.client.post("/v1/jobs", json=BODY, headers=headers).json()["job"]["id"]
    tomorrow = TODAY + timedelta(days=1)
    assert seen(get(api, "ada", to=tomorrow)) == []
    assert api.client.post(f"/v1/jobs/{job}/cancel", headers=headers).status_code == 200
    (row,) = get(api, "ada", to=tomorrow).json()["usage"]
    assert row.pop("wait_seconds") > 0
    assert row.pop("day") in (str(TODAY), str(tomorrow))
    assert row == {
        "user": "ada",
        "model": "tiny@1",
        "jobs": {"succeeded": 0, "failed": 0, "cancelled": 1},
        "pictures": 0,
        "run_seconds": 0.0,
        "device_byte_seconds": 0.0,
    }
    assert seen(get(api, "bob", to=tomorrow)) == []


def test_a_key_sees_its_own_rows_and_an_admin_those_of_all(api: Api) -> None:
    for user in ("ada", "bob"):
        add(api, user)
    assert seen(get(api, "ada")) == seen(get(api, "ada", user="ada")) == [("ada", "tiny@1")]
    assert seen(get(api, "operator")) == [("ada", "tiny@1"), ("bob", "tiny@1")]
    assert seen(get(api, "operator", user="bob")) == [("bob", "tiny@1")]
    refused = get(api, "ada", user="bob")
    assert (refused.status_code, refused.json()["details"]["field"]) == (422, "user")
    assert "DF_ADMIN_KEYS" in refused.json()["message"]


def test_days_and_models_select(api: Api) -> None:
    add(api, "ada", 31, "old@1")
    add(api, "ada", 29, "tiny@1")
    add(api, "ada", 1, "tiny@2")
    add(api, "ada", 0, "")
    rows: list[tuple[str, str | None]] = [("ada", "tiny@1"), ("ada", "tiny@2"), ("ada", None)]
    assert seen(get(api, "ada")) == rows
    assert seen(get(api, "ada", model="tiny")) == rows[:2]
    assert seen(get(api, "ada", model="tiny@2")) == rows[1:2]
    assert seen(get(api, "ada", to=TODAY - timedelta(days=1))) == rows[:2]
    assert seen(get(api, "ada", **{"from": TODAY})) == rows[2:]
    assert len(seen(get(api, "ada", **{"from": TODAY - timedelta(days=31)}))) == 4


def test_pages_follow_each_other_without_gap_or_repeat(api: Api) -> None:
    for days in range(3):
        for user in ("ada", "bob"):
            add(api, user, days)
            add(api, user, days, "")
    whole = seen(get(api, "operator"))
    assert len(whole) == 12
    pages: list[tuple[str, str | None]] = []
    query: dict[str, Any] = {"limit": 5}
    for _ in range(3):
        answer = get(api, "operator", **query)
        pages += seen(answer)
        query["cursor"] = answer.json()["next_cursor"]
    assert query["cursor"] is None
    assert pages == whole


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"to": "20260101"}, "to"),
        ({"to": "1700000000"}, "to"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "from"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"model": ""}, "model"),
        ({"since": "2026-01-01"}, "since"),
    ],
    ids=str,
)
def test_what_cannot_be_understood_is_refused_by_its_name(
    api: Api, query: dict[str, str], field: str
) -> None:
    refused = get(api, "ada", **query)
    assert refused.status_code == 422
    details = refused.json()["details"]
    assert field in {details.get("field"), *(e["field"] for e in details.get("errors", []))}


def test_the_first_day_of_all_has_no_days_before_it(api: Api) -> None:
    assert seen(get(api, "ada", to="0001-01-01")) == []


# The command line ---------------------------------------------------------------------------------


@pytest.fixture
def as_operator(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DF_API_BASE", api.base)
    monkeypatch.setenv("DF_API_KEY", KEYS["operator"])


@pytest.mark.usefixtures("as_operator")
def test_the_command_prints_a_table_with_a_total(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    add(api, "ada", pictures=2)
    add(api, "bob", model="", pictures=3)
    api.sql("UPDATE usage SET run_seconds = 1.5, device_byte_seconds = 7.2e12, jobs_failed = 1")
    assert run(["usage", "--to", str(TODAY)]) == 0
    head, ada, bob, total = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:3] == ["day", "user", "model"]
    assert ada == [str(TODAY), "ada", "tiny@1", "0", "1", "0", "2", "1.5", "0.0", "2.000"]
    assert bob == [str(TODAY), "bob", "-", "0", "1", "0", "3", "1.5", "0.0", "2.000"]
    assert total == ["total", "0", "2", "0", "5", "3.0", "0.0", "4.000"]


@pytest.mark.usefixtures("as_operator")
def test_the_command_reads_every_page(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.sql(
        'INSERT INTO usage (day, "user", model)'
        " SELECT %s, 'ada', 'm' || n || '@1' FROM generate_series(1, 1100) n",
        TODAY,
    )
    assert run(["usage", "--to", str(TODAY), "--user", "ada", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["usage"]
    assert len({row["model"] for row in rows}) == len(rows) == 1100


@pytest.mark.usefixtures("as_operator")
def test_the_command_says_what_the_api_refused(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["usage", "--from", "last week"]) == 2
    assert "must be a day like 2026-01-31" in capsys.readouterr().err
