"""One trace from the caller's request to the verdict, over real processes and real OTLP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.api_and_worker import Scene, drawing
from tests.support.api_harness import BODY
from tests.support.collector import Collector, collecting
from tests.support.infrastructure import Infrastructure
from tests.support.spans import Seen, below, only
from tests.support.worker_process import until

pytestmark = pytest.mark.timeout(300)

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOKEN = "a-token-for-the-collector"
ON = {"DF_TRACE_RATIO": "1", "DF_OTLP_HEADERS": f"authorization=Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def scene(
    stack: Infrastructure, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("traces")
    with drawing(stack, folder, DF_OTLP_ENDPOINT=collector.url, **ON) as found:
        yield found


def spans_of(collector: Collector, trace_id: str, *names: str) -> list[Seen]:
    """All spans of a trace, once those of these names have arrived."""

    def arrived() -> list[Seen]:
        found = [span for span in collector.spans() if span.trace_id == trace_id]
        return found if set(names) <= {span.name for span in found} else []

    spans: list[Seen] = until(arrived, f"spans {names}")
    return spans


def create(scene: Scene, trace_id: str, **changes: Any) -> tuple[str, str]:
    """A job in the caller's trace; its id and the id of its request."""
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
    answer = scene.api.client.post("/v1/jobs", json=BODY | changes, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]["id"], answer.headers["X-Request-Id"]


def test_a_job_is_one_trace_from_its_request_through_each_of_its_steps(
    scene: Scene, collector: Collector
) -> None:
    job, request_id = create(
        scene, TRACE, count=2, chain={"upscale": {"scale": 2, "impl": "resample"}}
    )
    until(lambda: scene.status(job) == "succeeded", "it is made")
    spans = spans_of(collector, TRACE, "POST /v1/jobs", "generate", "upscale")
    root = only(spans, "POST /v1/jobs")
    assert (root.parent, root.service, root.kind) == (CALLER, "dreamforge-api", "server")
    assert root.attributes["dreamforge.job.id"] == job
    steps = below(spans, root)
    assert [(span.name, span.service, span.kind) for span in steps] == [
        ("generate", "dreamforge-worker", "consumer"),
        ("upscale", "dreamforge-worker", "consumer"),
    ]
    for step in steps:
        assert step.attributes["dreamforge.job.id"] == job
        assert step.attributes["dreamforge.correlation_id"] == request_id
        assert not step.failed
        run = next(span for span in below(spans, step) if span.name == "run")
        assert [span.name for span in below(spans, run)] == ["load", "item 0", "item 1"]
    # Nothing hangs in the air: each parent is here, or the caller's.
    known = {span.span_id for span in spans} | {CALLER}
    assert {span.parent for span in spans} <= known
    assert collector.headers["authorization"] == f"Bearer {TOKEN}"


def test_the_workers_lines_about_a_job_name_its_trace(scene: Scene, collector: Collector) -> None:
    trace_id = "2" * 32
    job, _ = create(scene, trace_id)
    until(lambda: scene.status(job) == "succeeded", "it is made")
    ours = [line for line in scene.lines() if line.get("job_id") == job]
    assert ours and {line["trace_id"] for line in ours} == {trace_id}


def test_a_job_that_fails_is_an_error_in_its_trace(scene: Scene, collector: Collector) -> None:
    trace_id = "3" * 32
    job, _ = create(scene, trace_id, count=50, steps=200, timeout_s=1)
    until(lambda: scene.status(job) == "failed", "its time is over")
    step = only(spans_of(collector, trace_id, "generate"), "generate")
    assert (step.failed, step.attributes["error.type"]) == (True, "timeout")
    assert step.message == scene.api.client.get(f"/v1/jobs/{job}").json()["error"]["message"]
    assert "timeout" in step.events


@pytest.mark.slow
def test_a_trace_goes_on_in_another_worker_when_the_first_is_killed(
    scene: Scene, collector: Collector
) -> None:
    """And what waits when a worker is told to stop is sent before it is gone."""
    trace_id = "4" * 32
    job, _ = create(scene, trace_id, count=40, steps=200)
    scene.worker.until(lambda: scene.status(job) == "running", "it runs")
    assert scene.worker.stop() == 0  # drained: the step goes back
    first = only(spans_of(collector, trace_id, "generate"), "generate")
    assert first.attributes["dreamforge.outcome"] == "queued"
    assert not first.failed  # `drained` is nobody's fault
    other = scene.start()
    other.until(lambda: scene.status(job) == "running", "it runs again")
    scene.api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    until(lambda: scene.status(job) == "cancelled", "it is cancelled")

    def tries() -> list[Seen]:
        found = [span for span in collector.spans() if span.trace_id == trace_id]
        return [span for span in found if span.name == "generate"]

    until(lambda: len(tries()) == 2, "the other worker's spans")
    request = only(spans_of(collector, trace_id, "POST /v1/jobs"), "POST /v1/jobs")
    assert {span.parent for span in tries()} == {request.span_id}
