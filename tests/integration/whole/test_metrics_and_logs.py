"""PRODUCT §6 on a real api and a real worker: every named series, every field of the log."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.api_and_worker import Scene, drawing
from tests.support.infrastructure import Infrastructure
from tests.support.prometheus import PROGRAM, scraping
from tests.support.worker_process import until

from cli.state_dir import port_is_free

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]
OPERATIONS = ROOT / "docs/operations.md"
DASHBOARD = ROOT / "deploy/grafana/dashboards/dreamforge.json"
GPU = {"gpu", "uuid"}
# What §6 names, in its order, and the labels that tell one series of a name from another.
API = {
    "dreamforge_jobs_accepted_total": {"type"},
    "dreamforge_jobs_finished_total": {"status", "reason"},
    "dreamforge_queue_depth": set[str](),
    "dreamforge_sse_clients": set[str](),
    "dreamforge_waiting_calls": set[str](),
    "dreamforge_http_requests_total": {"route", "method", "status"},
}
WORKER = {
    "dreamforge_jobs_finished_total": {"status", "reason"},
    "dreamforge_queue_wait_seconds_count": set[str](),
    "dreamforge_start_seconds_count": set[str](),
    "dreamforge_run_seconds_count": set[str](),
    "dreamforge_reclaim_seconds_count": GPU,
    "dreamforge_retries_total": {"reason"},
    "dreamforge_dead_letters_total": {"kind"},
    "dreamforge_memory_used_bytes": GPU,
    "dreamforge_memory_free_bytes": GPU,
    "dreamforge_memory_reserved_bytes": GPU,
    "dreamforge_slot_state": GPU | {"state"},
    "dreamforge_signals_total": GPU | {"signal"},
    "dreamforge_leaked_bytes": GPU,
    "dreamforge_quarantines_total": GPU,
}
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_BASE_UNITS = ("_total", "_bytes", "_seconds", "_seconds_bucket", "_seconds_count", "_seconds_sum")
_NO_UNIT = {
    "dreamforge_queue_depth",
    "dreamforge_sse_clients",
    "dreamforge_webhook_backlog",
    "dreamforge_waiting_calls",
}
_NO_UNIT |= {"dreamforge_slot_state", "dreamforge_pids_map", "dreamforge_templates"}


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with drawing(stack, tmp_path_factory.mktemp("inside")) as found:
        yield found


def metrics(address: str) -> tuple[dict[str, set[str]], dict[str, float]]:
    """Of each name the names of its labels; of each series its value."""
    labels: dict[str, set[str]] = {}
    values: dict[str, float] = {}
    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if (sample := _SAMPLE.match(line)) is not None:
            found = re.findall(r'(\w+)="', sample[2] or "")
            labels.setdefault(sample[1], set()).update(found)
            values[line.rpartition(" ")[0]] = float(sample[3])
    return labels, values


def made(scene: Scene, **changes: Any) -> str:
    job = scene.api.create(**changes)
    until(lambda: scene.status(job) == "succeeded", "it is made")
    return job


def test_every_series_that_the_product_names_is_there_with_its_labels(scene: Scene) -> None:
    made(scene)
    worker = f"http://127.0.0.1:{scene.worker.port}"
    for address, expected in ((scene.api.base, API), (worker, WORKER)):
        labels, _ = metrics(address)
        assert {name: labels.get(name) for name in expected} == expected
        odd = {
            name
            for name in labels.keys() - _NO_UNIT
            if not (name.startswith("dreamforge_") and name.endswith((*_BASE_UNITS, "_created")))
        }
        assert not odd


def test_what_has_not_happened_yet_is_shown_as_zero_so_that_a_first_time_is_a_rise(
    scene: Scene,
) -> None:
    scene.worker.wait_ready()
    _, values = metrics(f"http://127.0.0.1:{scene.worker.port}")
    gpu = 'gpu="0",uuid="cpu-0"'
    assert values[f"dreamforge_quarantines_total{{{gpu}}}"] == 0
    assert values['dreamforge_signals_total{gpu="0",signal="SIGKILL",uuid="cpu-0"}'] == 0
    assert values['dreamforge_retries_total{reason="runner_crashed"}'] == 0
    assert values['dreamforge_dead_letters_total{kind="job"}'] == 0


def test_each_answer_that_the_api_documents_is_counted_from_zero(scene: Scene) -> None:
    _, values = metrics(scene.api.base)
    paths = scene.api.client.get("/openapi.json").json()["paths"]
    for route, methods in paths.items():
        for method, documented in methods.items():
            for status in documented["responses"]:
                labels = f'method="{method.upper()}",route="{route}",status="{status}"'
                assert f"dreamforge_http_requests_total{{{labels}}}" in values
    assert values['dreamforge_jobs_finished_total{reason="cancelled",status="cancelled"}'] >= 0
    assert values['dreamforge_jobs_accepted_total{type="generate"}'] >= 0


@pytest.mark.skipif(PROGRAM is None, reason="Prometheus is not installed here")
def test_a_prometheus_finds_every_documented_series_and_answers_the_dashboard(
    scene: Scene, tmp_path: Path
) -> None:
    made(scene)  # on a CPU as well, a step leaves its memory and its reclaim behind
    api, worker = urlsplit(scene.api.base).netloc, f"127.0.0.1:{scene.worker.port}"
    documented = set(re.findall(r"`(dreamforge_\w+)", OPERATIONS.read_text(encoding="utf-8")))
    documented -= {"dreamforge_spans_total"}  # while traces are on
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = {"dreamforge-api": api, "dreamforge-worker": worker}
    with scraping(tmp_path / "prometheus", targets) as prometheus:

        def missing() -> set[str]:
            found = prometheus.names()
            found |= {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}
            return documented - found

        until(lambda: not missing(), "it has every series")
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                prometheus.query(
                    target["expr"]
                    .replace("$worker", worker)
                    .replace("$api", api)
                    .replace("$__rate_interval", "1m")
                )


@pytest.mark.parametrize("part", ["api", "worker"])
def test_a_head_that_servers_read_differently_is_refused(scene: Scene, part: str) -> None:
    """By both services; what they refuse is in tests/unit/shared/test_strict_http.py."""
    port = scene.worker.port if part == "worker" else urlsplit(scene.api.base).port
    assert port is not None
    until(lambda: not port_is_free("127.0.0.1", port), "it listens")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connected:
        connected.sendall(b"GET /healthz HTTP/1.1\nHost: localhost\n\n")
        assert connected.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_a_job_and_its_waiting_are_counted_once(scene: Scene) -> None:
    worker = f"http://127.0.0.1:{scene.worker.port}"
    scene.worker.wait_ready()
    names = (
        'dreamforge_jobs_finished_total{reason="completed",status="succeeded"}',
        "dreamforge_queue_wait_seconds_count",
    )
    _, before = metrics(worker)
    # One job, two steps, each of which waits for its turn.
    made(scene, chain={"upscale": {"scale": 2, "impl": "resample"}})
    until(
        lambda: [metrics(worker)[1].get(name, 0) - before.get(name, 0) for name in names] == [1, 2],
        "one job, two waits",
    )


def test_the_workers_log_tells_a_job_from_its_claim_to_its_verdict(scene: Scene) -> None:
    job = made(scene, count=2)

    def lines() -> list[dict[str, Any]]:
        return [line for line in scene.lines() if line.get("job_id") == job]

    until(lambda: "step.finish" in [line.get("code") for line in lines()], "the verdict is told")
    told = lines()
    assert [line["code"] for line in told if line["level"] != "DEBUG"] == [
        "step.claimed",
        "step.start",
        "artifact.written",
        "artifact.written",
        "step.finish",
    ]
    assert [line["item_index"] for line in told if line["code"] == "artifact.written"] == [0, 1]
    assert all({"ts", "level", "step_id", "correlation_id"} <= line.keys() for line in told)
    assert told[-1]["payload"]["reason"] == "completed"


def test_the_apis_log_ties_a_request_to_its_job(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = scene.api.client.post("/v1/jobs", json={"type": "generate", "prompt": "a cup"})
        job = answer.json()["job"]["id"]
        until(lambda: scene.status(job) == "succeeded", "it is made")
    ours = [vars(record) for record in caplog.records if vars(record).get("job_id") == job]
    (accepted,) = [line for line in ours if line.get("code") == "job.created"]
    assert accepted["correlation_id"] == answer.headers["X-Request-Id"]
    assert any(line["message"] == "GET /v1/jobs/{job_id} 200" for line in ours)
