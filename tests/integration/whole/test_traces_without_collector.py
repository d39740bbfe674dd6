"""Tracing without a collector: api and worker work as if tracing were off."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.api_and_worker import drawing
from tests.support.infrastructure import Infrastructure
from tests.support.worker_process import until

pytestmark = pytest.mark.timeout(300)

TOKEN = "a-token-for-the-collector"
ON = {"DF_TRACE_RATIO": "1", "DF_OTLP_HEADERS": f"authorization=Bearer {TOKEN}"}


@pytest.fixture(params=["no listener", "no answer"])
def dead_collector(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a collector that is away, or never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "no answer":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_a_collector_that_is_away_costs_spans_and_no_job(
    stack: Infrastructure, tmp_path: Path, dead_collector: str
) -> None:
    with drawing(stack, tmp_path, DF_OTLP_ENDPOINT=dead_collector, **ON) as scene:
        job = scene.api.create()
        until(lambda: scene.status(job) == "succeeded", "it is made")
        worker = f"http://127.0.0.1:{scene.worker.port}/metrics"

        def failed() -> bool:
            return 'dreamforge_spans_total{outcome="failed"}' in httpx.get(worker).text

        scene.worker.until(failed, "they are counted")
        runner = scene.worker.wait_runner()  # the standby
        environment = Path(f"/proc/{runner.pid}/environ").read_text()
        assert TOKEN not in environment and dead_collector not in environment
        assert "opentelemetry" not in Path(f"/proc/{runner.pid}/maps").read_text()
        assert scene.worker.stop() == 0
        errors = [line for line in scene.lines() if line["logger"].startswith("opentelemetry")]
        assert len(errors) == 1 and errors[0]["level"] == "ERROR"
        assert TOKEN not in scene.worker.log.read_text()
