"""What operators read and do by HTTP: the last hour, dead letters, and who sees how much."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api

from shared.db import activity
from shared.dispatch.dead_letters import DeadMessages, dead_message
from shared.states import Reason, Status

KEYS = {"ada": "k-ada", "bob": "k-bob", "operator": "k-operator"}
CONFIGURED = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)
LAST = {"code": "runner_crashed", "message": "the runner ended by signal 11"}
DEAD = {"code": "attempts_exhausted", "message": "given up", "details": {"last_error": LAST}}


@pytest.fixture(scope="module")
def serving(stack: Any, migrated_url: str) -> Iterator[Api]:
    with running_api(stack.environment, api_keys=CONFIGURED, admin_keys=("operator",)) as running:
        yield running


@pytest.fixture
def api(serving: Api, database_url: str) -> Api:
    serving.install()
    return serving


def call(api: Api, name: str, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    return api.client.request(method, f"/v1/{path}", headers=headers, **options)


def get(api: Api, name: str, path: str) -> Any:
    answer = call(api, name, "GET", path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def create(api: Api, name: str, **changes: Any) -> str:
    answer = call(api, name, "POST", "jobs", json=BODY | changes)
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["job"]["id"]
    return job


def dead_job(api: Api, name: str) -> str:
    job = create(api, name)
    api.finish(job, Status.FAILED, Reason.ATTEMPTS_EXHAUSTED, DEAD)
    return job


def dead_webhook(api: Api, job: str) -> str:
    """A message of this job that was given up; its id."""
    receiver = {"url": "https://shop.example.org/hook", "events": ["end"]}
    api.sql("UPDATE jobs SET webhook = %s WHERE id = %s", json.dumps(receiver), job)
    api.sql(
        'INSERT INTO deliveries (job_id, seq, "user", host, event, payload, state, last_error,'
        " expires_at, ended_at) SELECT id, 1, \"user\", 'shop.example.org', 'end', '{}', 'dead',"
        " 'it answered 500', now(), now() FROM jobs WHERE id = %s",
        job,
    )
    return f"msg_{job.replace('-', '')}_1"


# The last hour ------------------------------------------------------------------------------------


def ended(api: Api, name: str, status: Status, reason: Reason, *, ago_s: float, waited_s: float,
          attempt: int = 1, count: int = 1) -> str:  # fmt: skip
    """A job that ended so long ago, and whose first step was claimed after so long."""
    job = create(api, name, count=count)
    api.finish(job, status, reason, None if status is Status.SUCCEEDED else DEAD)
    api.sql(
        "UPDATE jobs SET updated_at = now() - make_interval(secs => %s),"
        " created_at = now() - make_interval(secs => %s) WHERE id = %s",
        ago_s, ago_s + 100, job,
    )  # fmt: skip
    api.sql(
        "UPDATE steps SET attempt = %s, claimed_at = j.created_at + make_interval(secs => %s)"
        " FROM jobs AS j WHERE j.id = steps.job_id AND j.id = %s",
        attempt, waited_s, job,
    )  # fmt: skip
    return job


def test_the_last_hour_has_what_ended_in_each_five_minutes(api: Api) -> None:
    done = (Status.SUCCEEDED, Reason.COMPLETED)
    failed = (Status.FAILED, Reason.ATTEMPTS_EXHAUSTED)
    ended(api, "ada", *done, ago_s=10, waited_s=1, count=3)
    ended(api, "ada", *done, ago_s=20, waited_s=2)
    ended(api, "bob", *done, ago_s=30, waited_s=40)
    ended(api, "ada", *failed, ago_s=3300, waited_s=90, attempt=3)  # its wait is not known
    ended(api, "ada", *done, ago_s=3700, waited_s=1)  # before the hour
    answer = get(api, "operator", "activity")
    spans = answer["spans"]
    assert answer["exact"] is True
    assert len(spans) == activity.SPANS
    assert spans[-1]["jobs"] == {"succeeded": 3, "failed": 0, "cancelled": 0}
    assert spans[-1]["pictures"] == 5
    assert spans[-1]["wait_s"] == pytest.approx({"median": 2, "longest": 40}, abs=0.01)
    (older,) = [span for span in spans[:-1] if span["jobs"]["failed"]]
    assert (older["pictures"], older["wait_s"]) == (0, None)
    starts = [datetime.fromisoformat(span["start"]) for span in spans]
    assert {b - a for a, b in itertools.pairwise(starts)} == {timedelta(minutes=5)}
    own = get(api, "bob", "activity")["spans"]
    assert [span["pictures"] for span in own] == [0] * 11 + [1]


def test_an_hour_with_more_jobs_than_are_counted_says_so(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "MAX_COUNTED", 2)
    for _ in range(3):
        ended(api, "ada", Status.SUCCEEDED, Reason.COMPLETED, ago_s=10, waited_s=1)
    answer = get(api, "operator", "activity")
    assert answer["exact"] is False
    assert answer["spans"][-1]["jobs"]["succeeded"] == 2


# Dead letters -------------------------------------------------------------------------------------


def test_a_key_sees_its_own_letters_and_an_admin_all_of_them(api: Api) -> None:
    ada, bob = dead_job(api, "ada"), dead_job(api, "bob")
    webhook = dead_webhook(api, ada)
    messages = DeadMessages(api.settings.redis_url.get_secret_value())
    messages.add(dead_message(queue="default", reason="it is no JSON", body=b"{"))
    try:
        everything = get(api, "operator", "dead-letters")
        own = get(api, "ada", "dead-letters")
        latest = get(api, "operator", "dead-letters?limit=1")
    finally:
        for each in messages.all():
            messages.drop(each.id)
        messages.close()
    shown = [(each["kind"], each["id"]) for each in everything["dead_letters"]]
    assert shown[:3] == [("job", bob), ("job", ada), ("webhook", webhook)]
    assert [kind for kind, _ in shown[3:]] == ["message"]
    assert everything["messages_shown"] is True
    assert [each["mine"] for each in everything["dead_letters"]] == [False] * 4
    assert [each["replayable"] for each in everything["dead_letters"]] == [True] * 3 + [False]
    assert everything["dead_letters"][1]["reason"] == f"{LAST['code']}: {LAST['message']}"
    assert [(each["id"], each["mine"]) for each in own["dead_letters"]] == [
        (ada, True),
        (webhook, True),
    ]
    assert own["messages_shown"] is False
    assert [each["kind"] for each in latest["dead_letters"]] == ["job", "webhook", "message"]


def test_a_broker_that_is_away_hides_no_other_letter(stack: Any, database_url: str) -> None:
    with running_api(stack.environment, redis_url="redis://127.0.0.1:1/0") as api:
        api.install()
        job = api.create()
        api.finish(job, Status.FAILED, Reason.ATTEMPTS_EXHAUSTED, DEAD)
        answer = api.client.get("/v1/dead-letters").json()
    assert [each["id"] for each in answer["dead_letters"]] == [job]
    assert answer["messages_shown"] is False


@pytest.mark.parametrize("name", ["ada", "operator"])
def test_a_dead_job_becomes_a_new_one_of_its_user(api: Api, name: str) -> None:
    job = dead_job(api, "ada")
    answer = call(api, name, "POST", f"dead-letters/{job}/replay")
    assert answer.status_code == 202, answer.text
    again = answer.json()["job_id"]
    assert answer.json()["id"] == job != again
    assert get(api, "ada", f"jobs/{again}")["status"] == "queued"
    assert api.sql("SELECT replay_of::text FROM jobs WHERE id = %s", again) == [(job,)]
    assert call(api, name, "POST", f"dead-letters/{job}/replay").status_code == 409


def test_a_dead_webhook_is_sent_again(api: Api) -> None:
    webhook = dead_webhook(api, job := dead_job(api, "ada"))
    answer = call(api, "ada", "POST", f"dead-letters/{webhook}/replay")
    assert answer.status_code == 202
    assert answer.json() == {"id": webhook, "job_id": job}
    assert api.sql("SELECT state FROM deliveries") == [("waiting",)]
    assert call(api, "ada", "POST", f"dead-letters/{webhook}/replay").status_code == 409


def test_the_letters_of_another_key_are_not_there(api: Api) -> None:
    job = dead_job(api, "ada")
    webhook = dead_webhook(api, job)
    living = create(api, "bob")
    for letter in (
        job,
        webhook,
        living,
        str(uuid4()),
        "msg_1",
        "msg_x_y",
        f"{webhook}0",
        webhook + "0" * 30,
    ):
        answer = call(api, "bob", "POST", f"dead-letters/{letter}/replay")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), letter
    assert api.sql("SELECT state FROM deliveries") == [("dead",)]
    assert api.sql("SELECT count(*) FROM jobs") == [(2,)]


def test_a_replay_by_its_user_counts_against_the_users_limit(stack: Any, database_url: str) -> None:
    limits: dict[str, Any] = {
        "api_keys": CONFIGURED,
        "admin_keys": ("operator",),
        "max_unfinished_jobs": 1,
    }
    with running_api(stack.environment, **limits) as api:
        api.install()
        job = dead_job(api, "ada")
        create(api, "ada")
        refused = call(api, "ada", "POST", f"dead-letters/{job}/replay")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert call(api, "operator", "POST", f"dead-letters/{job}/replay").status_code == 202
