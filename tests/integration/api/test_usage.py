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
    with running_api(
        stack.environment,
        api_keys=CONFIGURED,
        admin_keys=("operator",),
        usage_tags="project,user",
    ) as running:
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
        "tag": None,
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


# By tag -------------------------------------------------------------------------------------------


def add_by_tag(
    api: Api, user: str, value: str, *, days_ago: int = 0, model: str = "tiny@1"
) -> None:
    api.sql(
        'INSERT INTO tag_usage (day, "user", tag_key, tag_value, model, pictures)'
        " VALUES (%s, %s, 'project', %s, %s, 1)",
        TODAY - timedelta(days=days_ago),
        user,
        value,
        model,
    )


def values(answer: httpx.Response) -> list[tuple[str, str | None, str | None]]:
    assert answer.status_code == 200, answer.text
    rows = answer.json()["usage"]
    assert {row["tag"]["key"] for row in rows} <= {"project"}
    return [(row["user"], row["tag"]["value"], row["model"]) for row in rows]


def test_a_job_counts_by_the_tags_that_the_operator_names_and_by_no_other(api: Api) -> None:
    api.install()
    headers = {"Authorization": f"Bearer {KEYS['ada']}"}
    tags = {"project": "shop", "note": "a secret wish", "user": "7"}
    created = api.client.post("/v1/jobs", json=BODY | {"tags": tags}, headers=headers)
    job = created.json()["job"]["id"]
    assert api.client.post(f"/v1/jobs/{job}/cancel", headers=headers).status_code == 200
    tomorrow = TODAY + timedelta(days=1)
    (row,) = get(api, "ada", to=tomorrow, tag="project").json()["usage"]
    assert (row["tag"], row["jobs"]["cancelled"]) == ({"key": "project", "value": "shop"}, 1)
    assert row | {"tag": None} == get(api, "ada", to=tomorrow).json()["usage"][0]
    assert values(get(api, "bob", to=tomorrow, tag="project")) == []
    # A deleted job leaves its sums, and of its tags the values that name them.
    assert api.client.delete(f"/v1/jobs/{job}", headers=headers).status_code == 204
    kept = api.sql("SELECT tag_key, tag_value FROM tag_usage ORDER BY tag_key")
    assert kept == [("project", "shop"), ("user", "7")]
    assert api.sql("SELECT count(*) FROM job_tags") == [(0,)]


def test_values_select_and_pages_follow_each_other(api: Api) -> None:
    odd = "é\U0001f34e ~=" + "\U0001f34e" * 250
    for value in ("", "shop", "web", odd):
        for user in ("ada", "bob"):
            add_by_tag(api, user, value)
    add_by_tag(api, "ada", "shop", days_ago=1)
    add_by_tag(api, "ada", "shop", model="")
    add(api, "ada")
    assert values(get(api, "bob", tag="project=shop")) == [("bob", "shop", "tiny@1")]
    assert values(get(api, "bob", tag="project=")) == [("bob", None, "tiny@1")]
    assert values(get(api, "bob", tag="project", model="tiny@2")) == []
    whole = values(get(api, "operator", tag="project"))
    assert len(whole) == 10
    assert {value for _, value, _ in whole} == {None, "shop", "web", odd}
    pages: list[tuple[str, str | None, str | None]] = []
    query: dict[str, Any] = {"limit": 1, "tag": "project"}
    for _ in whole:
        answer = get(api, "operator", **query)
        pages += values(answer)
        query["cursor"] = answer.json()["next_cursor"]
    assert (query["cursor"], pages) == (None, whole)


@pytest.mark.parametrize("tag", ["customer", "customer=7", "", "=shop", "a b"])
def test_a_tag_that_is_not_counted_by_is_refused_with_those_that_are(api: Api, tag: str) -> None:
    refused = get(api, "ada", tag=tag)
    assert refused.status_code == 422
    details = refused.json()["details"]
    assert "tag" in {details.get("field"), *(e["field"] for e in details.get("errors", []))}
    if tag.startswith("customer"):
        assert "DF_USAGE_TAGS, which is the operator's, names: project, user" in refused.text
        assert details["counted"] == ["project", "user"]


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
def test_the_command_shows_the_values_of_a_tag(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    add_by_tag(api, "ada", "shop")
    add_by_tag(api, "ada", "web")
    assert run(["usage", "--to", str(TODAY), "--tag", "project"]) == 0
    head, shop, web, total = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:3] == ["tag", "day", "user"]
    assert [shop[:3], web[:3]] == [
        [f"project={each}", str(TODAY), "ada"] for each in ("shop", "web")
    ]
    assert (shop[7], total) == ("1", ["total", "0", "0", "0", "2", "0.0", "0.0", "0.000"])
    assert run(["usage", "--to", str(TODAY), "--tag", "project=web", "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["usage"]
    assert row["tag"] == {"key": "project", "value": "web"}


@pytest.mark.usefixtures("as_operator")
def test_the_command_says_what_the_api_refused(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["usage", "--from", "last week"]) == 2
    assert "must be a day like 2026-01-31" in capsys.readouterr().err
