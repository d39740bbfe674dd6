"""A real worker process for tests: start it, watch it from outside, end it in any case."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from supervisor.processes.worker_mark import marker_of, worker_mark

DEADLINE_S = 90.0
_NOBODY = UUID(int=0)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a fact and return it.

    A look may read every process of the host: looking takes a third of the time at most, so that
    what is waited for gets the CPU.
    """
    deadline = time.monotonic() + DEADLINE_S
    while True:
        began = time.monotonic()
        if found := condition():
            return found
        ended = time.monotonic()
        assert ended < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(max(0.02, 2 * (ended - began)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_environment(settings: dict[str, str]) -> dict[str, str]:
    """The machine's environment with these settings and no other `DF_*`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    return clean | settings


class Worker:
    """`python -m supervisor` with a lock folder of its own, by which its processes are known.

    `module` is started in its place: a worker that a test has wired.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str],
        *,
        module: str = "supervisor",
        arguments: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        self.lock_dir = Path(settings["DF_LOCK_DIR"])
        self.port = free_port()
        # A template would fork the real runners; some modules start others, by spawn.
        settings = {"DF_RUNNER_START": "spawn"} | settings | {"DF_WORKER_PORT": str(self.port)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=command_environment(settings) | {"PYTHONPATH": os.pathsep.join(sys.path)},
                cwd=folder,  # not where a `.env` may lie
                stdout=log,
                stderr=log,
            )

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something that the worker does; a failure shows its log."""

        def alive_and() -> Any:
            assert self.process.poll() is None, f"it ended: {self.log.read_text()[-4000:]}"
            return condition()

        try:
            return until(alive_and, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-4000:]}") from None

    def ready(self) -> bool:
        try:
            return bool(json.loads(self._get("readyz"))["status"] == "ready")
        except (urllib.error.URLError, OSError):
            return False

    def metric(self, series: str) -> float:
        """The value of one line of its metrics."""
        line = next(
            line for line in self._get("metrics").splitlines() if line.startswith(f"{series} ")
        )
        return float(line.rpartition(" ")[2])

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}/{path}"
        with urllib.request.urlopen(url, timeout=5) as reply:
            return str(reply.read().decode())

    def wait_ready(self) -> None:
        self.until(self.ready, "the worker is ready")

    def marked(self) -> list[psutil.Process]:
        return marked(self.lock_dir)

    def wait_runner(self) -> psutil.Process:
        """The one runner, once it leads a session of its own."""

        def leader() -> psutil.Process | None:
            for process in self.marked():
                with suppress(ProcessLookupError):
                    if os.getsid(process.pid) == process.pid:
                        return process
            return None

        found: psutil.Process = self.until(leader, "a runner")
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def marked(lock_dir: Path) -> list[psutil.Process]:
    """Living processes of any worker that uses this lock folder."""
    tag = worker_mark(lock_dir, _NOBODY).partition(":")[0]
    return [
        process
        for process in psutil.process_iter()
        if (marker_of(process.pid) or "").startswith(f"{tag}:")
    ]


@contextmanager
def workers(
    folder: Path,
    settings: dict[str, str],
    *,
    module: str = "supervisor",
    arguments: Sequence[str] = (),
) -> Iterator[Callable[..., Worker]]:
    """Start workers one after the other; at the end all their processes are gone."""
    settings = settings | {"DF_LOCK_DIR": str(folder / "locks")}
    started: list[Worker] = []

    def start(**changes: str) -> Worker:
        started.append(Worker(folder, settings | changes, module=module, arguments=arguments))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait(DEADLINE_S)
        for process in marked(folder / "locks"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
