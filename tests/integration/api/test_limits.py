"""The bounds of the API, counted in PostgreSQL's rows, against creates at the same instant."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api, until

KEYS = ",".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in ("shop", "other"))


@contextmanager
def keyed_api(environment: dict[str, str], **bounds: int) -> Iterator[Api]:
    with running_api(environment, api_keys=KEYS, **bounds) as api:
        api.client.headers["Authorization"] = "Bearer shop"
        api.install()
        yield api


def refusal(answer: httpx.Response) -> dict[str, Any]:
    """The details of a `rate_limited`, whose header says the same."""
    assert answer.status_code == 429, answer.text
    envelope = answer.json()
    assert envelope["code"] == "rate_limited"
    assert envelope["correlation_id"] == answer.headers["X-Request-Id"]
    details: dict[str, Any] = envelope["details"]
    assert answer.headers["Retry-After"] == str(details["retry_after_s"])
    return details


@pytest.mark.parametrize("setting", ["max_unfinished_jobs", "max_jobs_per_minute"])
def test_creates_at_one_instant_on_two_processes_never_pass_a_bound(
    setting: str, stack_environment: dict[str, str]
) -> None:
    most = 5
    with (
        keyed_api(stack_environment, **{setting: most}) as one,
        keyed_api(stack_environment, **{setting: most}) as two,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = list(
            pool.map(lambda n: (one, two)[n % 2].client.post("/v1/jobs", json=BODY), range(20))
        )
        assert Counter(answer.status_code for answer in answers) == {202: most, 429: 20 - most}
        assert one.sql('SELECT count(*) FROM jobs WHERE "user" = %s', "shop") == [(most,)]
        elsewhere = one.client.post(
            "/v1/jobs", json=BODY, headers={"Authorization": "Bearer other"}
        )
        assert elsewhere.status_code == 202  # a bound is each user's own


def test_a_minutes_bound_says_when_it_is_over_and_then_is(
    stack_environment: dict[str, str],
) -> None:
    with keyed_api(stack_environment, max_jobs_per_minute=2) as api:
        first, _ = api.create(), api.create()
        api.sql("UPDATE jobs SET created_at = now() - interval '40 s' WHERE id = %s", first)
        details = refusal(api.client.post("/v1/jobs", json=BODY))
        assert details == {
            "limit": "jobs_per_minute",
            "maximum": 2,
            "used": 2,
            "retry_after_s": details["retry_after_s"],
        }
        assert 1 <= details["retry_after_s"] <= 20
        api.sql("UPDATE jobs SET created_at = now() - interval '60 s' WHERE id = %s", first)
        api.create()


def test_jobs_of_a_clock_that_was_ahead_keep_nobody_out(
    stack_environment: dict[str, str],
) -> None:
    with keyed_api(stack_environment, max_jobs_per_minute=2) as api:
        for _ in range(2):
            api.create()
        api.sql("UPDATE jobs SET created_at = now() + interval '3 days'")
        for _ in range(2):
            api.create()
        assert refusal(api.client.post("/v1/jobs", json=BODY))["limit"] == "jobs_per_minute"


def test_a_place_is_free_when_a_job_ends(stack_environment: dict[str, str]) -> None:
    with keyed_api(stack_environment, max_unfinished_jobs=1) as api:
        job = api.create()
        assert refusal(api.client.post("/v1/jobs", json=BODY))["limit"] == "unfinished_jobs"
        api.lease(job)  # one that runs counts as well
        assert refusal(api.client.post("/v1/jobs", json=BODY))["maximum"] == 1
        api.finish(job)
        api.create()


def test_a_replay_is_never_refused_and_a_refusal_burns_no_key(
    stack_environment: dict[str, str],
) -> None:
    with (
        keyed_api(stack_environment, max_unfinished_jobs=1, max_jobs_per_minute=1) as api,
        ThreadPoolExecutor(10) as pool,
    ):

        def send(key: str) -> httpx.Response:
            return api.client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": key})

        # All before the bound is reached, or so each of them thinks when it starts.
        answers = list(pool.map(lambda _: send("a"), range(10)))
        assert {(answer.status_code, answer.content) for answer in answers} == {
            (202, answers[0].content)
        }
        refusal(send("b"))
        assert send("a").content == answers[0].content
        api.sql("UPDATE jobs SET created_at = now() - interval '1 hour'")
        api.finish(answers[0].json()["job"]["id"])
        assert "Idempotent-Replayed" not in send("b").headers


def test_what_is_wrong_is_told_before_what_is_too_much(stack_environment: dict[str, str]) -> None:
    with keyed_api(stack_environment, max_unfinished_jobs=1) as api:
        api.create()
        answer = api.client.post("/v1/jobs", json=BODY | {"preset": "nonsense"})
        assert answer.status_code == 422


def test_without_bounds_nothing_is_refused(stack_environment: dict[str, str]) -> None:
    with keyed_api(stack_environment, max_unfinished_jobs=0, max_streams=0) as api:
        assert [api.create() for _ in range(3)]


def test_streams_are_bounded_and_a_place_is_free_when_a_client_is_gone(
    stack_environment: dict[str, str],
) -> None:
    with keyed_api(stack_environment, max_streams=2) as api:
        path = f"/v1/jobs/{api.create()}/progress/stream"
        with api.client.stream("GET", path) as first:
            assert first.status_code == 200
            with api.client.stream("GET", path) as second:
                assert second.status_code == 200
                assert refusal(api.client.get(path))["limit"] == "open_streams"
                browser = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
                again = api.client.get(path, headers=browser)  # a browser is told to come again
                assert (again.status_code, again.text[:13]) == (200, "retry: 10000\n")
                other = api.client.get("/v1/jobs")  # everything else is answered
                assert other.status_code == 200

            def free() -> bool:
                with api.client.stream("GET", path) as answer:
                    return answer.status_code == 200

            until(free, "the place of a client that went away is free")
