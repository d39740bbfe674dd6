"""The four sides, as the benchmark's own process sees them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
from benchmarks.isolation import processes
from benchmarks.isolation.celery_app import BUCKET, TASK, connect, open_store
from benchmarks.isolation.workload import Job, body

START_S, JOBS_S = 180.0, 600.0
LOOK_EVERY_S = 0.2
MARKER = "DREAMFORGE_RUNNER"


class _Processes:
    """A side with one process at the root of its others."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid

    def waiting(self) -> list[int]:
        """Process ids of what waits for work."""
        return [self.pid]


class Resident(_Processes):
    """A pipeline in one process that does nothing else."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__("resident", process.pid)
        self._process = process

    def draw(self, jobs: Sequence[Job]) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(job) for job in jobs]).encode() + b"\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError("the resident process has ended")


class CeleryWorker(_Processes):
    """A Celery worker with the resident pipeline; the client waits for each result."""

    def __init__(self, process: subprocess.Popen[bytes], redis_url: str) -> None:
        super().__init__("celery", process.pid)
        self._app = connect(redis_url)

    def draw(self, jobs: Sequence[Job]) -> None:
        results = [self._app.send_task(TASK, [asdict(job)]) for job in jobs]
        for result in results:
            result.get(timeout=JOBS_S)

    def waiting(self) -> list[int]:
        """The process of the pool; its parent only receives."""
        return [child.pid for child in psutil.Process(self.pid).children()]


class Stack(_Processes):
    """The whole product, asked over HTTP; its progress streams say when a job has ended."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], home: Path) -> None:
        super().__init__(name, process.pid)
        self._process = process
        self._home = home
        self._api = httpx.Client(trust_env=False, timeout=30)
        self._worker = httpx.Client(trust_env=False, timeout=30)
        _wait_until(self._ready)

    @property
    def environment(self) -> dict[str, str]:
        """Addresses and keys of its parts."""
        return dict(json.loads((self._home / "environment.json").read_text(encoding="utf-8")))

    def draw(self, jobs: Sequence[Job]) -> None:
        answers = [self._api.post("/v1/jobs", json=body(job)) for job in jobs]
        for answer in answers:
            if answer.is_error:
                raise RuntimeError(f"{self.name}: {answer.text}")
            self._await_end(answer.json()["job"]["id"])

    def waiting(self) -> list[int]:
        """Runners that wait for a step."""
        templates = self.templates()
        marked = [each.pid for each in processes.tree(self.pid) if _is_marked(each)]
        return [pid for pid in marked if pid not in templates]

    def templates(self) -> list[int]:
        """Process ids of the templates."""
        return [each["pid"] for each in self._worker.get("/readyz").json()["templates"]]

    def await_model(self, model: str) -> None:
        """Wait until the worker has a model that was registered just now."""
        _wait_until(lambda: self._api.get(f"/v1/models/{model}").json()["installed"])

    def _await_end(self, job: str) -> None:
        path = f"/v1/jobs/{job}/progress/stream"
        with self._api.stream("GET", path, timeout=JOBS_S) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:") and '"code":"job.finish"' in line:
                    break
            else:
                raise RuntimeError(f"{self.name}: the stream of job {job} has no end")
        end = json.loads(line.removeprefix("data:"))
        if end["payload"]["status"] != "succeeded":
            raise RuntimeError(f"{self.name}: job {job}: {end}")

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name}: the stack does not start")
        try:
            environment = self.environment
            self._api.base_url = f"http://127.0.0.1:{environment['DF_API_PORT']}"
            self._worker.base_url = f"http://127.0.0.1:{environment['DF_WORKER_PORT']}"
            return all(c.get("/readyz").is_success for c in (self._api, self._worker))
        except (FileNotFoundError, httpx.TransportError):
            return False


def _is_marked(process: psutil.Process) -> bool:
    """Whether a worker started it as a runner or as a template."""
    try:
        return MARKER in process.environ()
    except psutil.Error:
        return False  # it has ended


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {START_S:g} s: {holds.__qualname__}")
        time.sleep(LOOK_EVERY_S)


@contextmanager
def resident(folders: Mapping[str, str], log: Path) -> Iterator[Resident]:
    """Start the process with the pipeline."""
    command = [sys.executable, "-m", "benchmarks.isolation.resident", json.dumps(dict(folders))]
    with processes.started(command, {}, log, pipes=True) as process:
        yield Resident(process)


@contextmanager
def celery_worker(
    folders: Mapping[str, str], environment: Mapping[str, str], log: Path
) -> Iterator[CeleryWorker]:
    """Start a Celery worker on the broker and the store of a stack."""
    store = open_store(environment)
    if not store.bucket_exists(BUCKET):
        store.make_bucket(BUCKET)
    flags = "--pool prefork --concurrency 1 --without-gossip --without-mingle --loglevel WARNING"
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.isolation.celery_worker", "worker"]
    own = {"BENCH_FOLDERS": json.dumps(dict(folders))}
    with processes.started([*command, *flags.split()], {**environment, **own}, log) as process:
        yield CeleryWorker(process, environment["DF_REDIS_URL"])


@contextmanager
def stack(name: str, home: Path) -> Iterator[Stack]:
    """Start the whole product in a folder of its own. Runners start as `name` says."""
    environment = {
        "DF_HOME": str(home),
        "DF_API_PORT": "0",
        "DF_WORKER_PORT": "0",
        "DF_DEVICE": "cpu",
        "DF_RUNNER_START": name,
        "DF_LOCK_DIR": str(home / "locks"),
    }
    command = [sys.executable, "-m", "cli", "up"]
    log = home.with_suffix(".log")
    with processes.started(command, environment, log, stop=signal.SIGINT) as process:
        yield Stack(name, process, home)
