"""`GET /v1/workers`: what serves, what runs there, what waits, and who sees how much of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.api_harness import BODY, Api, running_api

from shared.db import backlog, workers
from shared.states import Priority
from shared.users import Serves

KEYS = {"ada": "k-ada", "bob": "k-bob", "operator": "k-operator"}
CONFIGURED = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)


@pytest.fixture(scope="module")
def serving(stack: Any, migrated_url: str) -> Iterator[Api]:
    with running_api(stack.environment, api_keys=CONFIGURED, admin_keys=("operator",)) as running:
        yield running


@pytest.fixture
def api(serving: Api, database_url: str) -> Api:
    return serving


def get(api: Api, name: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    answer = api.client.get("/v1/workers", headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def create(api: Api, name: str, **changes: Any) -> str:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    answer = api.client.post("/v1/jobs", json=BODY | changes, headers=headers)
    assert answer.status_code == 202, answer.text
    created: str = answer.json()["job"]["id"]
    return created


def add_worker(api: Api, *jobs: str | None, **changes: Any) -> workers.Worker:
    slots = [
        workers.Slot(
            id=f"GPU-{number}",
            device="cuda",
            device_class="A GPU",
            capacity_bytes=100,
            state="free" if job is None else "held",
            free_bytes=93,
            holders={"77": 7},
            job_id=None if job is None else UUID(job),
        )
        for number, job in enumerate(jobs)
    ]
    facts: dict[str, Any] = {"id": uuid4(), "host": "here", "version": "1", "queues": ["default"]}
    worker = workers.Worker(**(facts | {"slots": slots, "models": {}} | changes))
    api.transaction(workers.upsert, worker)
    return worker


def test_nothing_is_shown_where_nothing_lives_or_waits(api: Api) -> None:
    add_worker(api, None)
    api.sql("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
    assert get(api, "operator") == {"workers": [], "queue": []}


def test_an_admin_sees_hosts_processes_and_everybodys_jobs(api: Api) -> None:
    model = api.install()
    job = create(api, "ada")
    worker = add_worker(
        api,
        job,
        None,
        models={model.id: model.checkpoint_sha256, uuid4(): "0" * 64},
        warm={model.id},
        serves=Serves(priorities=(Priority.HIGH,), users=("ada", "bob")),
    )
    (shown,) = get(api, "operator")["workers"]
    assert shown.pop("started_at") <= shown.pop("heartbeat_at")
    slot = {
        "device": "cuda",
        "class": "A GPU",
        "total_bytes": 100,
        "free_bytes": 93,
        "holders": {"77": 7},
    }
    assert shown == {
        "id": str(worker.id),
        "host": "here",
        "version": "1",
        "queues": ["default"],
        "serves": {"priorities": ["high"], "users": ["ada", "bob"]},
        "models": ["tiny@1"],
        "warm": ["tiny@1"],
        "slots": [
            {"id": "GPU-0", "state": "held", "job_id": job, "mine": False, **slot},
            {"id": "GPU-1", "state": "free", "job_id": None, "mine": False, **slot},
        ],
    }


def test_another_key_sees_the_slots_and_its_own_jobs_only(api: Api) -> None:
    api.install()
    own, others = create(api, "ada"), create(api, "bob")
    add_worker(api, own, others, serves=Serves(users=("ada", "bob")))
    body = get(api, "ada")
    (shown,) = body["workers"]
    assert (shown["host"], shown["serves"]["users"]) == (None, None)
    assert [(slot["job_id"], slot["mine"]) for slot in shown["slots"]] == [
        (own, True),
        (None, False),
    ]
    assert [slot["holders"] for slot in shown["slots"]] == [None, None]
    assert {slot["state"] for slot in shown["slots"]} == {"held"}
    assert [row["user"] for row in body["queue"]] == ["ada"]
    assert others not in str(body)
    assert "bob" not in str(body)


def test_what_waits_is_counted_by_priority_and_user(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.install()
    for name, priority, count in (("ada", "low", 3), ("ada", "high", 1), ("bob", "high", 2)):
        for _ in range(count):
            create(api, name, priority=priority)
    api.lease(create(api, "bob", priority="low"))

    def rows(name: str) -> list[tuple[str, str, int, bool]]:
        return [
            (row["priority"], row["user"], row["waiting"], row["exact"])
            for row in get(api, name)["queue"]
        ]

    assert rows("operator") == [
        ("high", "ada", 1, True),
        ("high", "bob", 2, True),
        ("low", "ada", 3, True),
    ]
    assert rows("ada") == [("high", "ada", 1, True), ("low", "ada", 3, True)]
    monkeypatch.setattr(backlog, "MAX_COUNTED", 6)  # two of each group
    assert rows("operator")[2] == ("low", "ada", 2, False)
    monkeypatch.setattr(backlog, "MAX_GROUPS", 1)
    assert len(rows("operator")) == 1


def test_a_worker_of_another_release_may_say_less_of_a_slot(api: Api) -> None:
    add_worker(api, None)
    api.sql("UPDATE workers SET slots = jsonb_build_array((slots->0) - 'job_id' || '{\"new\": 1}')")
    (shown,) = get(api, "operator")["workers"]
    assert shown["slots"][0]["job_id"] is None
