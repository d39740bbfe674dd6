"""Tracing is on and nobody listens: api and worker go on as if it were off."""

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


@pytest.fixture(params=["nobody listens", "nobody answers"])
def nobody(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a collector that is no help."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            held.listen()
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_collector_that_is_away_costs_spans_and_no_job(
    stack: Infrastructure, tmp_path: Path, nobody: str
) -> None:
    with drawing(stack, tmp_path, DF_OTLP_ENDPOINT=nobody, **ON) as scene:
        job = scene.api.create()
        until(lambda: scene.status(job) == "succeeded", "it is made")
        worker = f"http://127.0.0.1:{scene.worker.port}/metrics"

        def failed() -> bool:
            return 'dreamforge_spans_total{outcome="failed"}' in httpx.get(worker).text

        scene.worker.until(failed, "they are counted")
        runner = scene.worker.wait_runner()  # the standby
        environment = Path(f"/proc/{runner.pid}/environ").read_text()
        assert TOKEN not in environment and nobody not in environment
        assert "opentelemetry" not in Path(f"/proc/{runner.pid}/maps").read_text()
        assert scene.worker.stop() == 0
        said = [line for line in scene.lines() if line["logger"].startswith("opentelemetry")]
        assert len(said) == 1 and said[0]["level"] == "ERROR"
        assert TOKEN not in scene.worker.log.read_text()
