"""Progress, stream and log of a job: over real sockets, on a real PostgreSQL."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.api_harness import Api, running_api, until

from api.streaming import hub
from shared.events import NewEvent
from shared.states import Reason, Status

OOM = {"code": "oom", "message": "not enough memory", "details": {"peak_bytes": 5}}


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


def clients(api: Api) -> float:
    text = api.client.get("/metrics").text
    return float(text.partition("\ndreamforge_sse_clients ")[2].split("\n", 1)[0])


def dropped(api: Api) -> float:
    text = httpx.get(f"{api.base}/metrics").text
    return float(text.partition("\ndreamforge_sse_dropped_total ")[2].split("\n", 1)[0])


def parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Events with their SSE name, as they arrive; checks that id and data agree."""
    message: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            message[name] = value
        elif message.get("event") == "queue":  # no event of the job
            assert "id" not in message
            message = {}
        elif "data" in message:
            event = json.loads(message["data"])
            assert message["id"] == str(event["seq"])
            yield {"event": message["event"], **event}
            message = {}


@contextmanager
def stream(api: Api, job: str, **options: Any) -> Iterator[Iterator[dict[str, Any]]]:
    with api.client.stream("GET", f"/v1/jobs/{job}/progress/stream", **options) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        # A proxy that compresses would hold events back until its block is full.
        assert "no-transform" in answer.headers["Cache-Control"]
        yield parse(answer.iter_lines())


# Stream -------------------------------------------------------------------------------------------


def test_a_stream_has_all_from_the_first_event_to_the_end_in_order_and_closes(api: Api) -> None:
    job = api.create()
    with stream(api, job) as events:
        first = next(events)
        assert (first["seq"], first["event"], first["code"]) == (1, "log", "job.created")
        api.progress(job, 0.1, 0.2)
        assert [next(events)["payload"]["progress"] for _ in range(2)] == [0.1, 0.2]
        api.append(job, NewEvent(code="artifact.written", message="stored", item_index=0))
        assert next(events)["event"] == "artifact"
        api.finish(job, Status.FAILED, Reason.OOM, OOM)
        end = list(events)
    assert [(e["event"], e["code"]) for e in end] == [
        ("error", "error"),
        ("log", "job.finish"),
        ("progress", "progress"),
    ]
    assert end[0]["payload"] == OOM
    assert end[2]["payload"]["progress"] == 0.2
    assert [e["seq"] for e in end] == [5, 6, 7]


def test_data_has_every_field_that_the_contract_names(api: Api) -> None:
    job = api.create()
    with stream(api, job) as events:
        event = next(events)
    assert set(event) == {
        "event",
        "seq",
        "ts",
        "level",
        "code",
        "message",
        "job_id",
        "step_id",
        "item_index",
        "payload",
    }
    assert event["job_id"] == job
    assert event["ts"].endswith("Z")


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_resumed_stream_neither_loses_nor_repeats(api: Api, how: str) -> None:
    job = api.create()
    api.progress(job, *[0.1] * 500)
    seen: list[int] = []
    while True:
        last = str(seen[-1]) if seen else ""
        options: dict[str, Any] = (
            {"headers": {"Last-Event-ID": last}} if how == "header" else {}
        ) | ({"params": {"last_event_id": last}} if how == "query" else {})
        with stream(api, job, **options) as events:
            before = len(seen)
            for event in events:
                seen.append(event["seq"])
                if len(seen) - before == 130:  # the line is cut
                    break
            else:
                break
        if len(seen) == 3 * 130:
            api.finish(job)
    assert seen == list(range(1, 501 + 2 + 1))


def test_after_the_end_there_is_204_and_before_it_the_rest(api: Api) -> None:
    job = api.create()
    api.finish(job)
    address = f"/v1/jobs/{job}/progress/stream"
    with stream(api, job, headers={"Last-Event-ID": "1"}) as events:
        assert [event["code"] for event in events] == ["job.finish", "progress"]
    done = api.client.get(address, headers={"Last-Event-ID": "3"})
    assert (done.status_code, done.content) == (204, b"")
    # The header wins: it is what an EventSource sends by itself when it comes back.
    both = api.client.get(address, headers={"Last-Event-ID": "3"}, params={"last_event_id": "1"})
    assert both.status_code == 204


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "99", "\u00b2"])
def test_an_id_that_is_none_of_this_jobs_is_refused(api: Api, last: str) -> None:
    job = api.create()
    answer = api.client.get(f"/v1/jobs/{job}/progress/stream", params={"last_event_id": last})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_a_client_that_goes_away_frees_everything(api: Api) -> None:
    job = api.create()
    with stream(api, job) as events:
        next(events)
        assert clients(api) == 1
    until(lambda: clients(api) == 0, "the stream is forgotten")


def test_many_clients_of_one_job_see_the_same(api: Api) -> None:
    job = api.create()
    streams: list[list[int]] = []

    def watch() -> None:
        with httpx.Client(base_url=api.base, timeout=30) as client:
            other = replace(api, client=client)
            with stream(other, job) as events:
                streams.append([event["seq"] for event in events])

    threads = [threading.Thread(target=watch) for _ in range(20)]
    for thread in threads:
        thread.start()
    until(lambda: clients(api) == 20, "all clients watch")
    api.progress(job, *[0.5] * 50)
    api.finish(job)
    for thread in threads:
        thread.join(30)
    assert streams == [list(range(1, 54))] * 20


def database_cost(api: Api) -> tuple[int, int]:
    """Connections of the API, and transactions that its database has committed so far."""
    (cost,) = api.sql(
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dreamforge-api'), "
        "(SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())"
    )
    return cost[0], cost[1]


def test_a_hundred_clients_cost_the_database_one_reader(api: Api) -> None:
    """Five jobs, twenty clients each. With a reader for every client the time that is measured here
    would hold 1600 transactions, and the pool as many connections as it may open."""
    jobs = [api.create() for _ in range(5)]
    seen: Counter[str] = Counter()
    counting = threading.Lock()

    clients_of_all = httpx.Client(
        base_url=api.base, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)
    )

    def watch(job: str) -> None:
        with clients_of_all.stream("GET", f"/v1/jobs/{job}/progress/stream") as answer:
            count = len(list(parse(answer.iter_lines())))
        with counting:
            seen[f"{job} {count}"] += 1

    threads = [threading.Thread(target=watch, args=(job,)) for job in jobs for _ in range(20)]
    for thread in threads:
        thread.start()
    until(lambda: clients(api) == 100, "all clients watch")
    _, before = database_cost(api)
    threading.Event().wait(16 * hub.POLL_S)  # nothing to wait for: this is what is measured
    connections, after = database_cost(api)
    for job in jobs:
        api.progress(job, 0.5)
    for job in jobs:
        api.finish(job)
    for thread in threads:
        thread.join(60)
    clients_of_all.close()
    assert seen == {f"{job} {1 + 1 + 2}": 20 for job in jobs}
    # The reader's connection, and what the pool keeps of the hundred that looked their job up; some
    # of those look-ups PostgreSQL counts late.
    assert connections <= 10
    assert after - before < 16 * 100 / 4


def test_a_client_that_does_not_read_is_ended_and_costs_the_others_nothing(api: Api) -> None:
    job = api.create()
    address = urlsplit(api.base)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((address.hostname, address.port))
        slow.sendall(
            f"GET /v1/jobs/{job}/progress/stream HTTP/1.1\r\nHost: [::1]\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
        )
        until(lambda: clients(api) == 1, "the slow one watches")
        with stream(api, job) as events, ThreadPoolExecutor(1) as pool:
            quick = pool.submit(lambda: [event["seq"] for event in events])
            try:
                for _ in range(12):
                    api.progress(job, *[0.1] * 150, padding="x" * 4000)
                until(lambda: dropped(api) == 1, "the slow one is given up")
            finally:
                api.finish(job)  # or the quick one would wait for ever
            assert quick.result(60) == list(range(1, 12 * 150 + 4))
        # It may now read what was on its way, and is then ended before the job's own end.
        slow.settimeout(30)
        received = b""
        while block := slow.recv(1 << 20):
            received += block
    assert b"job.finish" not in received
    until(lambda: clients(api) == 0, "the slow one is forgotten")


def test_an_api_that_stops_ends_its_streams_and_the_next_one_continues_them(
    stack_environment: dict[str, str],
) -> None:
    with running_api(stack_environment) as first:
        first.install()
        job = first.create()
        first.progress(job, 0.1)
        with stream(first, job) as events:
            seen = [next(events)["seq"], next(events)["seq"]]
            first.server.should_exit = True
            assert list(events) == []
    with running_api(stack_environment) as second:
        second.progress(job, 0.2)
        second.finish(job)
        with stream(second, job, headers={"Last-Event-ID": str(seen[-1])}) as events:
            seen += [event["seq"] for event in events]
    assert seen == [1, 2, 3, 4, 5]


# Progress -----------------------------------------------------------------------------------------


def test_progress_never_goes_back_not_even_for_an_item_that_is_tried_again(api: Api) -> None:
    job = api.create(count=2)
    shown = api.client.get(f"/v1/jobs/{job}/progress").json()
    assert (shown["progress"], shown["stage"]) == (0.0, "queue")
    assert shown["items"] == [{"item_index": i, "progress": 0.0} for i in range(2)]
    assert sum(stage["weight"] for stage in shown["stages"]) == pytest.approx(1)
    api.lease(job)
    assert api.client.get(f"/v1/jobs/{job}/progress").json()["stage"] == "load"
    api.artifact(job, 0, b"one")
    for reached in (0.6, 0.2):
        api.progress(job, 0.7, item_index=1, item_progress=reached)
        shown = api.client.get(f"/v1/jobs/{job}/progress").json()
        assert (shown["progress"], shown["stage"]) == (0.7, "sampling")
        assert [item["progress"] for item in shown["items"]] == [1.0, 0.6]
    api.sql(  # its worker was lost
        "UPDATE steps SET state = 'queued', lease_owner = NULL, lease_expires_at = NULL "
        "WHERE job_id = %s",
        job,
    )
    shown = api.client.get(f"/v1/jobs/{job}/progress").json()
    assert (shown["progress"], shown["stage"]) == (0.7, "queue")


def test_a_failed_job_keeps_the_progress_that_it_had(api: Api) -> None:
    job = api.create()
    api.progress(job, 0.4)
    api.finish(job, Status.FAILED, Reason.OOM, OOM)
    shown = api.client.get(f"/v1/jobs/{job}/progress").json()
    assert (shown["progress"], shown["status"], shown["stage"]) == (0.4, "failed", None)


# Logs ---------------------------------------------------------------------------------------------


def log(api: Api, job: str, **query: Any) -> list[dict[str, Any]]:
    answer = api.client.get(f"/v1/jobs/{job}/logs", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert not answer.text or answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_log_of_many_pages_is_whole_and_in_order(api: Api) -> None:
    job = api.create()
    api.append(job, *(NewEvent(code="runner.log", message=f"line {i}") for i in range(1234)))
    lines = log(api, job)
    assert [line["message"] for line in lines[1:]] == [f"line {i}" for i in range(1234)]
    assert set(lines[1]) == {"ts", "level", "code", "message", "job_id", "step_id"}


def test_tail_level_and_since_select_and_combine(api: Api) -> None:
    job = api.create()
    for i, level in enumerate(("DEBUG", "WARNING", "INFO", "ERROR", "WARNING")):
        api.append(job, NewEvent(code="runner.log", message=str(i), level=level))

    def messages(**query: Any) -> list[str]:
        return [line["message"] for line in log(api, job, **query)]

    assert messages(tail=2) == ["3", "4"]
    assert messages(level="WARNING") == ["1", "3", "4"]
    assert messages(level="WARNING", tail=2) == ["3", "4"]
    assert messages(level="ERROR", tail=5) == ["3"]
    third = log(api, job)[3]["ts"]
    assert messages(since_ts=third) == ["2", "3", "4"]
    assert messages(since_ts=third, tail=1) == ["4"]
    assert messages(since_ts="2999-01-01T00:00:00Z") == []


def test_since_takes_every_spelling_of_a_moment(api: Api) -> None:
    job = api.create()
    api.sql("UPDATE events SET ts = %s", datetime(2026, 1, 31, 12, tzinfo=UTC))
    for text in ("2026-01-31T12:00:00Z", "2026-01-31T14:00:00 02:00", "2026-01-31T12:00:00"):
        assert len(log(api, job, since_ts=text)) == 1
    assert log(api, job, since_ts="2026-01-31T12:00:00.000001Z") == []


@pytest.mark.parametrize(
    "query",
    [
        {"since_ts": "yesterday"},
        {"since_ts": "0001-01-01T00:00:00+14:00"},
        {"since_ts": "\0"},
        {"tail": 0},
        {"tail": 10001},
        {"level": "LOUD"},
        {"unknown": 1},
    ],
)
def test_a_wrong_log_query_is_refused_by_name(api: Api, query: dict[str, Any]) -> None:
    (name,) = query
    answer = api.client.get(f"/v1/jobs/{api.create()}/logs", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["message"].startswith(name)


def test_hostile_text_in_an_event_stays_on_its_line(api: Api) -> None:
    job = api.create()
    nasty = "a\nb\r\nc\u2028d\u2029data: x\n\nid: 99 \u202e 🍎"
    api.append(job, NewEvent(code="runner.log", message=nasty, payload={"x": nasty}))
    api.finish(job)
    assert log(api, job)[1]["message"] == nasty
    with stream(api, job) as events:
        assert [e["message"] for e in events][1] == nasty
