"""Several api processes on one port: each serves, one that dies is replaced, all end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from tests.support.api_harness import BODY, Api, running_api, until

from api.metrics_folder import metrics_folder
from api.server import bind

pytestmark = pytest.mark.timeout(600)
START_S = 200.0


class Processes:
    """`python -m api` with two processes."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with bind("127.0.0.1", 0) as probe:
            port = str(probe.getsockname()[1])
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
        self.base = f"http://127.0.0.1:{port}"
        self.log = log
        own = {"DF_API_PORT": port, "DF_API_PROCESSES": "2", "TMPDIR": str(log.parent)}
        with log.open("wb") as stderr:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "api"], env=clean | environment | own, stderr=stderr
            )

    @property
    def serving(self) -> list[psutil.Process]:
        """The children that have the listening socket open and accept from it."""
        return [
            child
            for child in psutil.Process(self.parent.pid).children()
            if "resource_tracker" not in " ".join(child.cmdline())
        ]

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.base}/healthz", timeout=5).status_code == 200
        return False

    def metric(self, line: str) -> float:
        text = httpx.get(f"{self.base}/metrics", timeout=10).text
        return float(text.partition(f"\n{line} ")[2].split("\n", 1)[0])


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    """One in this process: it has the bucket and the model made."""
    with running_api(stack_environment) as running:
        running.install()
        yield running


@pytest.fixture
def two(stack_environment: dict[str, str], api: Api, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(stack_environment, tmp_path / "log")
    try:
        until(processes.answers, "it serves", timeout_s=START_S)
        yield processes
    finally:
        processes.parent.kill()
        processes.parent.wait()


def test_one_that_dies_is_replaced_and_the_metrics_are_the_sum_of_all(two: Processes) -> None:
    accepted = 'dreamforge_jobs_accepted_total{type="generate"}'

    def create(times: int) -> None:
        for _ in range(times):  # each on a connection of its own, so that both may take it
            httpx.post(f"{two.base}/v1/jobs", json=BODY, timeout=20).raise_for_status()

    until(lambda: two.log.read_text().count("Application startup complete") >= 2, "both", START_S)
    create(10)
    assert two.metric(accepted) == 10
    before = two.serving
    assert len(before) == 2
    before[0].kill()
    before[0].wait(60)
    create(10)  # what arrives meanwhile waits in the shared socket, or is taken by the other
    until(
        lambda: len({child.pid for child in two.serving} - {child.pid for child in before}) == 1,
        "another takes its place",
        timeout_s=START_S,
    )
    until(lambda: two.log.read_text().count("Application startup complete") >= 3, "it", START_S)
    assert two.metric(accepted) == 20


def test_all_end_with_their_streams_on_sigterm(two: Processes, api: Api) -> None:
    children = two.serving
    path = f"/v1/jobs/{api.create()}/progress/stream"
    with httpx.stream("GET", f"{two.base}{path}", timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("id: ")) == "id: 1"
        assert two.metric("dreamforge_sse_clients") == 1
        two.parent.send_signal(signal.SIGTERM)
        assert not [line for line in lines if line.startswith("id: ")]
    assert two.parent.wait(60) == 0
    assert not [child for child in children if child.is_running()]
    assert "Traceback" not in two.log.read_text()


def test_the_counts_of_a_killed_api_stay_while_one_of_its_processes_lives(
    two: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    until(lambda: two.log.read_text().count("Application startup complete") >= 2, "both", START_S)
    (folder,) = tmp_path.glob("dreamforge-metrics-*")
    stopped, other = two.serving
    stopped.suspend()
    two.parent.kill()
    two.parent.wait()
    other.wait(60)
    with metrics_folder():  # as the next api does
        assert folder.exists()
    stopped.kill()
    until(lambda: not stopped.is_running(), "it has ended")
    with metrics_folder():
        assert not folder.exists()


@pytest.mark.slow
def test_one_that_is_stopped_holds_up_neither_the_others_nor_the_end(two: Processes) -> None:
    until(lambda: two.log.read_text().count("Application startup complete") >= 2, "both", START_S)
    stopped, other = two.serving
    stopped.suspend()
    until(two.answers, "the other serves")
    two.parent.send_signal(signal.SIGTERM)
    assert two.parent.wait(60) == 0
    assert not (stopped.is_running() or other.is_running())
    assert f"process {stopped.pid} did not end" in two.log.read_text()


def test_none_outlives_a_parent_that_was_killed(two: Processes) -> None:
    until(lambda: two.log.read_text().count("Application startup complete") >= 2, "both", START_S)
    children = two.serving
    two.parent.kill()
    two.parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone), alive) == (2, [])
