"""Create, look, list, cancel, fetch: on a real PostgreSQL, broker and store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api

from shared.states import Reason, Status


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert body["correlation_id"] == answer.headers["X-Request-Id"]
    return body


# Create -------------------------------------------------------------------------------------------


def test_a_job_is_found_where_a_proxy_serves_it(stack_environment: dict[str, str]) -> None:
    """The proxy takes the path off, so the answer has to put it on."""
    with running_api(stack_environment, root_path="/pictures") as api:
        api.install()
        answer = api.client.post("/v1/jobs", json=BODY)
        assert answer.headers["Location"] == f"/pictures/v1/jobs/{answer.json()['job']['id']}"


def test_a_created_job_is_queued_with_everything_pinned_and_one_event(api: Api) -> None:
    answer = api.client.post(
        "/v1/jobs", json=BODY | {"count": 3}, headers={"X-Client-Request-Id": "order-1"}
    )
    job = answer.json()["job"]
    assert answer.status_code == 202
    assert set(job) == {"id", "status", "type", "created_at"}
    assert (job["status"], job["type"]) == ("queued", "generate")
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"

    shown = api.client.get(answer.headers["Location"]).json()
    assert shown["summary"] == {"count": 3, "completed": 0}
    assert [(step["name"], step["status"]) for step in shown["steps"]] == [("generate", "queued")]
    assert (shown["status"], shown["error"], shown["created_at"]) == (
        "queued",
        None,
        job["created_at"],
    )
    ((params, vram_bytes, state),) = api.sql("SELECT params, vram_bytes, state FROM steps")
    assert (params["width"], params["count"], state) == (64, 3, "queued")
    assert vram_bytes > 0
    ((code, payload),) = api.sql("SELECT code, payload FROM events")
    assert code == "job.created"
    assert payload["client_request_id"] == "order-1"
    assert payload["correlation_id"] == answer.headers["X-Request-Id"]


def test_a_refused_request_leaves_nothing_behind_and_does_not_burn_its_key(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    for wrong in ({"width": 65}, {"width": 1024}, {"model_id": "nope"}, {"preset": "nope"}):
        answer = api.client.post("/v1/jobs", json=BODY | wrong, headers=key)
        assert answer.status_code == 422
    assert api.sql("SELECT 1 FROM jobs") == []
    assert api.client.post("/v1/jobs", json=BODY, headers=key).status_code == 202


def test_the_same_key_and_body_get_the_first_answer_again_whatever_happened_since(
    api: Api,
) -> None:
    first = api.client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "order-1"})
    api.finish(first.json()["job"]["id"])
    api.sql("UPDATE models SET enabled = false")
    spaced = b'{ "prompt": "a red apple",\n "type": "generate" }'
    again = api.client.post(
        "/v1/jobs",
        content=spaced,
        headers={"Idempotency-Key": '"order-1"', "Content-Type": "application/json"},
    )
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert api.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_the_same_key_with_another_body_is_a_conflict(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    first = api.client.post("/v1/jobs", json=BODY, headers=key).json()["job"]["id"]
    answer = api.client.post("/v1/jobs", json=BODY | {"seed": 1}, headers=key)
    assert problem(answer, 409, "conflict")["details"] == {"job_id": first}


def test_fifty_equal_creates_at_one_instant_make_one_job_and_one_answer(api: Api) -> None:
    barrier = threading.Barrier(50)

    def send(_: int) -> httpx.Response:
        barrier.wait()
        return httpx.post(
            f"{api.base}/v1/jobs", json=BODY, headers={"Idempotency-Key": "k"}, timeout=60
        )

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    counted = api.sql(
        "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM steps), "
        "(SELECT count(*) FROM events)"
    )
    assert counted == [(1, 1, 1)]


def test_an_expired_key_makes_a_new_job_whatever_the_body(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    first = api.client.post("/v1/jobs", json=BODY, headers=key).json()["job"]["id"]
    api.sql("UPDATE jobs SET key_expires_at = now() - interval '1 second'")
    second = api.client.post("/v1/jobs", json=BODY | {"seed": 1}, headers=key).json()["job"]["id"]
    assert first != second
    rows = api.sql("SELECT id::text, key_hash IS NULL FROM jobs ORDER BY created_at")
    assert rows == [(first, True), (second, False)]


def test_a_key_is_stored_as_a_hash_only(api: Api) -> None:
    api.client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "order-4711"})
    ((row,),) = api.sql("SELECT row_to_json(jobs)::text FROM jobs")
    assert "4711" not in row


def test_which_model_is_meant_must_be_plain(api: Api) -> None:
    other = api.install(name="other", version="1")
    answer = api.client.post("/v1/jobs", json=BODY)
    assert problem(answer, 422, "invalid_input")["details"]["models"] == ["other@1", "tiny@1"]
    for reference in ("other", "other@1", str(other.id)):
        api.create(model_id=reference)
    assert api.sql("SELECT count(*) FROM steps WHERE model_id = %s", other.id) == [(3,)]


def test_the_default_model_setting_decides_when_the_request_does_not(
    stack_environment: dict[str, str],
) -> None:
    with running_api(stack_environment, default_model="other") as api:
        api.install()
        answer = api.client.post("/v1/jobs", json=BODY)
        assert "DF_DEFAULT_MODEL" in problem(answer, 422, "model_unavailable")["message"]
        other = api.install(name="other", version="1")
        api.create()
        assert api.sql("SELECT model_id FROM steps") == [(other.id,)]


def test_without_a_model_the_message_says_how_to_get_one(api: Api) -> None:
    api.sql("DELETE FROM models")
    answer = api.client.post("/v1/jobs", json=BODY)
    assert "dreamforge model import" in problem(answer, 422, "model_unavailable")["message"]


def test_what_no_live_worker_could_hold_is_refused_at_once_and_queued_when_none_lives(
    api: Api,
) -> None:
    worker = api.worker(api.install(), capacity_bytes=1000)
    details = problem(api.client.post("/v1/jobs", json=BODY), 422, "insufficient_vram")["details"]
    assert (details["largest_slot_bytes"], details["live_workers"]) == (1000, 1)
    assert details["required_bytes"] > 1000
    (slot,) = details["slots"]
    assert (slot["total_bytes"], slot["free_bytes"], slot["holders"]) == (1000, 993, {"77": 7})
    api.sql("UPDATE workers SET heartbeat_at = now() - interval '31 s' WHERE id = %s", worker)
    api.create()


def test_a_model_that_no_live_worker_has_is_refused_by_name_and_queued_when_none_lives(
    api: Api,
) -> None:
    worker = api.worker(api.install(name="other"))
    answer = api.client.post("/v1/jobs", json=BODY | {"model_id": "tiny@1"})
    details = problem(answer, 422, "model_unavailable")["details"]
    assert (details["step"], details["live_workers"]) == ("generate", 1)
    api.create(model_id="other")
    api.sql("UPDATE workers SET heartbeat_at = now() - interval '31 s' WHERE id = %s", worker)
    api.create(model_id="tiny@1")


# Look and list ------------------------------------------------------------------------------------


NO_JOBS = [
    str(uuid4()),
    "x",
    "00000000",
    str(uuid4()).upper(),
    "%00",
    "..%2f..%2fetc%2fpasswd",
    "a" * 3000,
    "'%20OR%201=1--",
    "%f0%9f%8d%8e",
]


@pytest.mark.parametrize("rest", ["", "/artifacts", "/logs", "/progress", "/progress/stream"])
def test_what_is_no_job_is_not_found(api: Api, rest: str) -> None:
    for name in NO_JOBS:
        problem(api.client.get(f"/v1/jobs/{name}{rest}"), 404, "not_found")


def test_another_users_job_is_not_found_anywhere(api: Api) -> None:
    job = api.create()
    api.sql('UPDATE jobs SET "user" = %s', "somebody-else")
    for rest in ("", "/artifacts", "/logs", "/progress", "/progress/stream"):
        problem(api.client.get(f"/v1/jobs/{job}{rest}"), 404, "not_found")
    problem(api.client.post(f"/v1/jobs/{job}/cancel"), 404, "not_found")
    assert api.client.get("/v1/jobs").json() == {"jobs": [], "next_cursor": None}
    assert api.sql("SELECT status FROM jobs") == [("queued",)]


def test_pages_are_newest_first_and_stay_right_while_jobs_arrive(api: Api) -> None:
    ids = [api.create() for _ in range(5)]
    # Two of one microsecond: the id must break the tie.
    api.sql(
        "UPDATE jobs SET created_at = (SELECT created_at FROM jobs WHERE id = %s) WHERE id = %s",
        ids[1],
        ids[2],
    )
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = api.client.get("/v1/jobs", params=query).json()
        assert len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        api.create()
    assert sorted(seen) == sorted(ids)
    assert [job for job in seen if job not in ids[1:3]] == [ids[4], ids[3], ids[0]]


def test_a_list_is_filtered_by_tags(api: Api) -> None:
    def listed(*tags: str, **query: Any) -> list[str]:
        page = api.client.get("/v1/jobs", params={"tag": tags, **query}).json()
        return [job["id"] for job in page["jobs"]]

    odd = "50 % off, a=b & 'c'"
    shop = {"project": "shop", "note": odd}
    one, other = api.create(tags=shop), api.create(tags={"project": "shop"})
    none = api.create()
    assert api.client.get(f"/v1/jobs/{one}").json()["tags"] == shop
    assert api.client.get(f"/v1/jobs/{none}").json()["tags"] == {}
    assert listed() == [none, other, one]
    assert listed("project=shop") == [other, one]
    assert listed("project=shop", f"note={odd}") == [one]
    assert listed("project=shop", "project=web") == listed("project=") == []
    api.finish(other)
    assert listed("project=shop", status="queued") == [one]

    page = api.client.get("/v1/jobs", params={"tag": "project=shop", "limit": 1}).json()
    assert listed("project=shop", cursor=page["next_cursor"]) == [one]
    wrong = api.client.get("/v1/jobs", params={"tag": "project"})
    assert problem(wrong, 422, "invalid_input")["details"]["errors"][0]["field"] == "tag.0"
    many = api.client.post("/v1/jobs", json=BODY | {"tags": {str(n): "" for n in range(11)}})
    assert problem(many, 422, "invalid_input")["message"] == "tags: must have at most 10 entries"


def test_a_job_shows_what_was_asked_and_what_runs(api: Api) -> None:
    body = BODY | {"seed": 7, "count": 2}
    job = api.client.get(f"/v1/jobs/{api.create(**body)}").json()
    assert job["request"] == body
    runs = {name: job["parameters"][name] for name in ("prompt", "width", "steps", "seed", "count")}
    assert runs == {"prompt": BODY["prompt"], "width": 64, "steps": 4, "seed": 7, "count": 2}


def test_the_list_filters_by_status_and_shows_whole_jobs(api: Api) -> None:
    ended, waiting = api.create(count=2), api.create()
    api.artifact(ended, 0, b"one")
    api.finish(ended, Status.FAILED, Reason.OOM, {"code": "oom", "message": "m", "details": {}})
    (failed,) = api.client.get("/v1/jobs", params={"status": "failed"}).json()["jobs"]
    whole = api.client.get(f"/v1/jobs/{ended}").json()
    assert failed == whole | {"request": None, "parameters": None}
    assert failed["error"] == {"code": "oom", "message": "m", "details": {}}
    assert failed["summary"] == {"count": 2, "completed": 1}
    (queued,) = api.client.get("/v1/jobs", params={"status": "queued"}).json()["jobs"]
    assert queued["id"] == waiting


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 201},
        {"limit": "x"},
        {"status": "done"},
        {"cursor": "x"},
        {"stauts": "failed"},
    ],
)
def test_a_wrong_query_is_refused_and_never_ignored(api: Api, query: dict[str, Any]) -> None:
    (name,) = query
    assert (
        name in problem(api.client.get("/v1/jobs", params=query), 422, "invalid_input")["message"]
    )


# Cancel -------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once_with_its_verdict_and_only_once(api: Api) -> None:
    job = api.create()
    first = api.client.post(f"/v1/jobs/{job}/cancel")
    assert first.status_code == 200
    shown = first.json()
    assert (shown["status"], shown["error"]["code"]) == ("cancelled", "cancelled")
    assert [step["status"] for step in shown["steps"]] == ["cancelled"]
    assert api.client.post(f"/v1/jobs/{job}/cancel").json() == shown
    codes = [code for (code,) in api.sql("SELECT code FROM events ORDER BY seq")]
    assert codes == ["job.created", "step.finish", "error", "job.finish", "progress"]
    ((payload,),) = api.sql("SELECT payload FROM events WHERE code = 'step.finish'")
    assert payload == {"step": "generate", "state": "cancelled", "reason": "cancelled"}


def test_a_running_job_is_asked_once_and_left_to_its_owner(api: Api) -> None:
    job = api.create()
    api.lease(job)
    for _ in range(2):
        shown = api.client.post(f"/v1/jobs/{job}/cancel").json()
        assert shown["finished_at"] is None
        assert shown["cancel_requested_at"] is not None
    ((state, cancel_requested),) = api.sql(
        "SELECT state, cancel_requested_at IS NOT NULL FROM steps"
    )
    assert (state, cancel_requested) == ("running", True)
    assert api.sql("SELECT count(*) FROM events WHERE code = 'cancel.requested'") == [(1,)]


def test_cancelling_a_job_that_has_ended_is_no_error_and_changes_nothing(api: Api) -> None:
    job = api.create()
    api.finish(job)
    before = api.client.get(f"/v1/jobs/{job}").json()
    answer = api.client.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()) == (200, before)
    assert before["status"] == "succeeded"


def test_many_cancels_at_one_instant_write_one_verdict(api: Api) -> None:
    job = api.create()
    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(
                lambda _: httpx.post(f"{api.base}/v1/jobs/{job}/cancel", timeout=30), range(10)
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert api.sql("SELECT count(*) FROM events WHERE code = 'job.finish'") == [(1,)]


# Fetch --------------------------------------------------------------------------------------------


def test_artifacts_come_with_urls_that_work_and_a_bucket_that_does_not(api: Api) -> None:
    job = api.create(count=2)
    api.artifact(job, 1, b"second", seed=43)
    key = api.artifact(job, 0, b"first", seed=42)
    first, second = api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
    assert (first["item_index"], first["seed"], first["s3_key"]) == (0, 42, key)
    assert (second["item_index"], second["step"], second["format"]) == (1, "generate", "png")
    fetched = httpx.get(first["url"])
    assert (fetched.content, fetched.headers["Content-Type"]) == (b"first", "image/png")
    assert httpx.get(first["url"].partition("?")[0]).status_code == 403


def test_a_failed_jobs_finished_pictures_can_still_be_fetched(api: Api) -> None:
    job = api.create(count=2)
    api.artifact(job, 0, b"first")
    api.finish(job, Status.FAILED, Reason.TIMEOUT, {"code": "timeout", "message": "m"})
    (only,) = api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
    assert httpx.get(only["url"]).content == b"first"
    assert api.client.get(f"/v1/jobs/{job}").json()["error"]["details"] == {}


# Models -------------------------------------------------------------------------------------------


def test_models_show_their_schema_and_whether_a_live_worker_has_them(api: Api) -> None:
    model = api.install()
    shown = api.client.get(f"/v1/models/{model.id}").json()
    assert shown["parameters_schema"]["properties"]["width"]["default"] == 64
    assert (shown["enabled"], shown["installed"]) == (True, False)
    api.worker(model)
    for reference in ("tiny", "tiny@1", str(model.id)):
        assert api.client.get(f"/v1/models/{reference}").json()["installed"] is True
    assert [each["id"] for each in api.client.get("/v1/models").json()["models"]] == [str(model.id)]


@pytest.mark.parametrize("name", ["nope", "tiny@2", "%00", str(UUID(int=7)), "tiny@"])
def test_an_unknown_model_is_not_found(api: Api, name: str) -> None:
    problem(api.client.get(f"/v1/models/{name}"), 404, "not_found")
