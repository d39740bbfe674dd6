"""Calls that wait for their job: over real sockets, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api, until

from api.streaming import hub
from shared.states import Reason, Status

CALLS = 400
OOM = {"code": "oom", "message": "not enough memory", "details": {"peak_bytes": 5}}


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def metric(api: Api, name: str) -> float:
    text = httpx.get(f"{api.base}/metrics", timeout=30).text
    return float(text.partition(f"\n{name} ")[2].split("\n", 1)[0])


def waiting(api: Api) -> int:
    return int(metric(api, "dreamforge_waiting_calls"))


def create(api: Api, prefer: str = "wait=60", **headers: str) -> httpx.Response:
    return api.client.post("/v1/jobs", json=BODY, headers={"Prefer": prefer, **headers}, timeout=70)


def created_job(api: Api) -> str:
    until(lambda: waiting(api) == 1, "the call waits")
    ((job,),) = api.sql("SELECT id::text FROM jobs")
    return str(job)


def test_a_create_that_waits_answers_with_the_whole_job_once_it_has_ended(
    api: Api, pool: ThreadPoolExecutor
) -> None:
    answer: Future[httpx.Response] = pool.submit(create, api, **{"Idempotency-Key": "order-1"})
    job = created_job(api)
    assert not answer.done()
    api.finish(job, Status.FAILED, Reason.OOM, OOM)
    ended = answer.result(20)
    assert (ended.status_code, ended.headers["Preference-Applied"]) == (202, "wait=60")
    assert ended.headers["Location"] == f"/v1/jobs/{job}"
    assert ended.json() == {"job": api.client.get(f"/v1/jobs/{job}").json()}
    assert (ended.json()["job"]["status"], ended.json()["job"]["error"]) == ("failed", OOM)
    # A client that lost this answer finds its job by the key, and waits again.
    again = create(api, **{"Idempotency-Key": "order-1"})
    assert again.json() == ended.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    plain = create(api, "respond-async", **{"Idempotency-Key": "order-1"})
    assert plain.json()["job"]["status"] == "queued"  # as first answered
    assert "Preference-Applied" not in plain.headers


def test_a_wait_that_is_over_answers_with_the_job_as_it_is(
    api: Api, pool: ThreadPoolExecutor
) -> None:
    short = create(api, "wait=1")
    job = short.json()["job"]
    assert (job["status"], job["steps"][0]["status"]) == ("queued", "queued")
    assert short.headers["Preference-Applied"] == "wait=1"
    path = f"/v1/jobs/{job['id']}"
    api.lease(job["id"])
    assert api.client.get(path, params={"wait": 1}).json()["steps"][0]["status"] == "running"
    answer = pool.submit(api.client.get, path, params={"wait": 60}, timeout=70)
    until(lambda: waiting(api) == 1, "the call waits")
    api.finish(job["id"])
    assert answer.result(20).json()["status"] == "succeeded"
    assert api.client.get(path, params={"wait": 60}, timeout=20).json()["status"] == "succeeded"


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5", ""])
def test_a_wrong_wait_is_refused_by_name(api: Api, wait: str) -> None:
    answer = api.client.get(f"/v1/jobs/{api.create()}", params={"wait": wait})
    assert (answer.status_code, answer.json()["message"].partition(":")[0]) == (422, "wait")


def test_a_client_that_goes_away_frees_its_place_and_changes_nothing(
    stack_environment: dict[str, str], pool: ThreadPoolExecutor
) -> None:
    with running_api(stack_environment, max_streams=1) as api:
        api.install()
        job = api.create()
        path = f"/v1/jobs/{job}"
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(f"{api.base}{path}", params={"wait": 60}, timeout=1)
            until(lambda: waiting(api) == 0, "the call that was given up ends")
        answer = pool.submit(api.client.get, path, params={"wait": 60})
        until(lambda: waiting(api) == 1, "the call waits")
        refused = api.client.get(path, params={"wait": 60})
        assert (refused.status_code, refused.json()["details"]["limit"]) == (429, "open_streams")
        # A create is stored: it is answered, and does not claim to have waited.
        plain = create(api)
        assert (plain.status_code, plain.json()["job"]["status"]) == (202, "queued")
        assert "Preference-Applied" not in plain.headers
        assert api.sql("SELECT status, cancel_requested_at FROM jobs WHERE id = %s", job) == [
            ("queued", None)
        ]
        api.finish(job)
        assert answer.result(20).json()["status"] == "succeeded"


def test_a_job_that_is_deleted_before_its_end_was_read_ends_what_waits_for_it(
    stack_environment: dict[str, str], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create is answered as one that did not wait: its job was stored."""
    monkeypatch.setattr(hub, "CHECK_S", 0.1)
    with running_api(stack_environment) as api:
        api.install()
        created: Future[httpx.Response] = pool.submit(create, api)
        job = created_job(api)
        path = f"/v1/jobs/{job}"
        shown = pool.submit(api.client.get, path, params={"wait": 60}, timeout=70)
        watched = pool.submit(api.client.get, f"{path}/progress/stream", timeout=70)
        until(lambda: waiting(api) == 2 and metric(api, "dreamforge_sse_clients") == 1, "they wait")
        api.sql("DELETE FROM jobs WHERE id = %s", job)
        assert watched.result(20).status_code == 200
        assert shown.result(20).status_code == 404
        answer = created.result(20)
        assert (answer.status_code, answer.json()["job"]["status"]) == (202, "queued")
        assert "Preference-Applied" not in answer.headers


def test_an_api_that_stops_answers_those_who_wait(
    stack_environment: dict[str, str], pool: ThreadPoolExecutor
) -> None:
    with running_api(stack_environment) as api:
        api.install()
        answer: Future[httpx.Response] = pool.submit(create, api)
        job = created_job(api)
        api.server.should_exit = True
        ended = answer.result(20)
        assert (ended.json()["job"]["id"], ended.json()["job"]["status"]) == (job, "queued")


def test_calls_that_wait_hold_no_database_connection(api: Api, pool: ThreadPoolExecutor) -> None:
    """Forty times as many as the pool has connections. A thousand are the same to the hub
    (`tests/unit/api/test_hub.py`), and to a slow machine more than it can begin within a minute."""
    jobs = [api.create() for _ in range(8)]
    address = urlsplit(api.base)

    async def call(job: str) -> bytes:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        line = f"GET /v1/jobs/{job}?wait=60 HTTP/1.1"
        writer.write(f"{line}\r\nHost: [::1]\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head.split()[1] + (b" succeeded" if b'"succeeded"' in body else b"")

    async def calls() -> Counter[bytes]:
        return Counter(await asyncio.gather(*(call(jobs[i % 8]) for i in range(CALLS))))

    answers = pool.submit(asyncio.run, calls())
    try:
        until(lambda: waiting(api) == CALLS, "all calls wait", timeout_s=60)
        connections = (
            "SELECT count(*) FILTER (WHERE state <> 'idle'), count(*) FROM pg_stat_activity "
            "WHERE application_name = 'dreamforge-api'"
        )
        # The one reader may be at work at that moment.
        until(lambda: api.sql(connections)[0][0] == 0, "all connections are idle")
        assert api.sql(connections)[0][1] <= 10
    finally:
        for job in jobs:
            api.finish(job)
    assert answers.result(60) == {b"200 succeeded": CALLS}
    assert waiting(api) == 0
