"""What a job that waits says of its place: in answers, its stream, refusals, on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.api_harness import BODY, Api, running_api, until

from cli.main import run
from shared.db.models import Model


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment, max_unfinished_jobs=4) as running:
        yield running


@pytest.fixture
def model(api: Api) -> Model:
    return api.install()


def measured(api: Api, model: Model, seconds: float = 10.0) -> None:
    """Twenty steps like those of `BODY` took so long, a second of it to start."""
    api.sql(
        "INSERT INTO run_times (type, checkpoint_sha256, preset, work, start_seconds, seconds)"
        " SELECT s.type, %s, (s.preset ->> 'name') || '@' || (s.preset ->> 'version'),"
        " array_fill(64.0 * 64 * 4, ARRAY[20]), array_fill(1.0, ARRAY[20]),"
        " array_fill(%s::float, ARRAY[20]) FROM steps AS s LIMIT 1",
        model.checkpoint_sha256,
        seconds,
    )


def queue_of(api: Api, job: str) -> Any:
    return api.client.get(f"/v1/jobs/{job}").json()["queue"]


def soon(api: Api, job: str, **expected: Any) -> None:
    """The line is read once a second: what changed shows by then."""

    def shown() -> bool:
        queue = queue_of(api, job)
        return queue is not None and expected.items() <= queue.items()

    until(shown, f"queue has {expected}")


def test_jobs_that_wait_say_their_position_and_when_they_will_start(api: Api, model: Model) -> None:
    api.worker(model)
    jobs = [api.create() for _ in range(3)]
    measured(api, model)
    for position, job in enumerate(jobs, 1):
        soon(api, job, position=position, exact=True)
    until(lambda: queue_of(api, jobs[2])["starts_in_s"] is not None, "the samples are read")
    spans = [queue_of(api, job)["starts_in_s"] for job in jobs]
    assert spans[0]["low"] <= 1 <= spans[0]["high"] <= 4
    assert spans[2]["low"] <= 21 <= spans[2]["high"]
    assert 10 < spans[2]["low"] < spans[2]["high"] < 40
    page = api.client.get("/v1/jobs").json()["jobs"]
    assert [job["queue"]["position"] for job in page] == [3, 2, 1]


def test_a_job_that_was_just_created_has_its_place_behind_the_line(api: Api, model: Model) -> None:
    api.worker(model)
    first = api.create()
    soon(api, first, position=1)
    assert queue_of(api, api.create())["position"] == 2


def test_where_nothing_is_known_no_time_is_said(api: Api, model: Model) -> None:
    api.worker(model)
    jobs = [api.create() for _ in range(2)]
    soon(api, jobs[1], position=2, starts_in_s=None)
    assert queue_of(api, jobs[0])["starts_in_s"] is not None  # it starts at once, whatever it is


def test_without_a_worker_no_time_is_said(api: Api, model: Model) -> None:
    job = api.create()
    measured(api, model)
    soon(api, job, position=1, starts_in_s=None)


def test_a_job_that_does_not_wait_has_no_place(api: Api, model: Model) -> None:
    api.worker(model)
    runs, ends, is_cancelled = (api.create() for _ in range(3))
    soon(api, is_cancelled, position=3)
    api.lease(runs)
    api.finish(ends)
    cancelled = api.client.post(f"/v1/jobs/{is_cancelled}/cancel").json()
    assert cancelled["queue"] is None
    assert queue_of(api, runs) is None
    assert queue_of(api, ends) is None


def test_the_second_step_of_a_chain_waits_as_well(api: Api, model: Model) -> None:
    api.worker(model)
    job = api.create(chain={"upscale": {"scale": 2, "impl": "resample"}})
    soon(api, job, position=1)
    api.sql(
        "UPDATE steps SET state = 'succeeded', reason = 'completed', finished_at = now()"
        " WHERE position = 0"
    )
    assert queue_of(api, job) is None
    api.sql("UPDATE steps SET state = 'queued' WHERE position = 1")
    soon(api, job, position=1)


# The stream ---------------------------------------------------------------------------------------


def test_the_stream_says_it_between_events_and_without_an_id(api: Api, model: Model) -> None:
    api.worker(model)
    job = api.create()
    measured(api, model)
    with api.client.stream("GET", f"/v1/jobs/{job}/progress/stream") as answer:
        lines = answer.iter_lines()
        message = _next(lines, "queue")
        api.progress(job, 0.5)
        event = _next(lines, "progress")
    assert "id" not in message
    data = json.loads(message["data"])
    assert (data["code"], data["level"], data["job_id"]) == ("queue", "INFO", job)
    assert data["payload"].keys() == {"position", "exact", "starts_in_s"}
    assert data["payload"]["position"] == 1
    assert "seq" not in data
    assert event["id"] == "2"  # the second event of the job: the message counts for nothing


def _next(lines: Iterator[str], name: str) -> dict[str, str]:
    """The next message of the stream with this name."""
    message: dict[str, str] = {}
    for line in lines:
        field, _, value = line.partition(": ")
        if line:
            message[field] = value
        elif message.get("event") == name:
            return message
        else:
            message = {}
    raise AssertionError("the stream ended")


# Refusals -----------------------------------------------------------------------------------------


def refused(api: Api) -> int:
    answer = api.client.post("/v1/jobs", json=BODY)
    assert (answer.status_code, answer.json()["details"]["limit"]) == (429, "unfinished_jobs")
    pause_s = int(answer.headers["Retry-After"])
    assert answer.json()["details"]["retry_after_s"] == pause_s
    assert f"try again in {pause_s} s" in answer.json()["message"]
    return pause_s


def test_a_user_with_too_many_jobs_learns_when_one_will_end(api: Api, model: Model) -> None:
    worker = api.worker(model)
    jobs = [api.create() for _ in range(4)]
    measured(api, model, seconds=100.0)
    api.lease(jobs[0])
    api.sql(
        "UPDATE steps SET lease_owner = %s, claimed_at = now() - '60 s'::interval"
        " WHERE lease_owner IS NOT NULL",
        worker,
    )
    assert 25 <= refused(api) <= 55


def test_where_nothing_is_known_the_pause_is_the_usual_one(api: Api, model: Model) -> None:
    for _ in range(4):
        api.create()
    assert refused(api) == 10


# The terminal -------------------------------------------------------------------------------------


def test_the_status_of_a_job_says_its_place(
    api: Api, model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.worker(model)
    job = api.create()
    measured(api, model)
    soon(api, job, position=1)
    monkeypatch.setenv("DF_API_BASE", api.base)
    assert run(["job", "status", job]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("queue"))
    assert line.split("  ", 1)[1].strip().startswith("position 1, starts in 0 to ")


# What it costs ------------------------------------------------------------------------------------


def test_behind_what_is_read_of_the_line_the_position_is_a_lower_bound(
    api: Api, model: Model
) -> None:
    first = api.create()
    api.sql(
        "INSERT INTO steps (id, job_id, position, name, type, params, device, preset, vram_bytes,"
        " timeout_s, state, run_at) SELECT gen_random_uuid(), job_id, n, name, type, params,"
        " device, preset, vram_bytes, timeout_s, state, run_at"
        " FROM steps, generate_series(1, 1500) AS n"
    )
    last = api.create()
    soon(api, last, exact=False, starts_in_s=None)
    assert queue_of(api, last)["position"] > 900
    assert queue_of(api, first) is not None
