"""A whole system for the crash tests: real parts, a real api, real workers, and SIGKILL.

Every process starts as an operator would start it, and restarts as an init system would restart it.
Many tests share one system, so each test leaves it serving.
"""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import PIL.Image
import psutil
import psycopg
from tests.support import quick_timings
from tests.support.follower import Follower
from tests.support.gates import Gates
from tests.support.infrastructure import Infrastructure
from tests.support.invariants import Settled
from tests.support.webhook_receiver import Receiver, receiver
from tests.support.worker_process import DEADLINE_S, command_environment, free_port, marked, until

from cli.models.install import bundled_models, install, register
from dreamforge_client import Client
from shared.object_store import open_store
from shared.settings import Settings

# A lease that a test can wait for. The fence is at 3.2 s, a runner's own timer at 4.4 s.
TIMES = quick_timings.in_environment(
    lease_s=5.0,
    lease_renew_s=0.5,
    lease_margin_s=0.3,
    term_grace_s=0.3,
    kill_deadline_s=1.2,
    exit_grace_s=20.0,
    poll_s=0.1,
    retry_base_s=0.05,
    retry_cap_s=0.2,
)
PARTS = ("broker", "postgres", "store")
Process = subprocess.Popen[bytes]
T = TypeVar("T")


class Bench:
    """`api` and `worker` serve; `gates` hold them; `kill` ends a part, `revive` restarts it."""

    def __init__(
        self,
        stack: Infrastructure,
        database_url: str,
        folder: Path,
        receiver: Receiver,
        *,
        runner_start: str,
    ) -> None:
        self.receiver = receiver
        self.stack = stack
        self.folder = folder
        self.gates = Gates(folder)
        self.lock_dir = folder / "locks"
        self._url = database_url
        self._runner_start = runner_start
        self._started: list[Process] = []
        self._addresses: dict[int, str] = {}
        models = folder / "models"
        register(database_url, install(bundled_models()[0], models))
        self._environment = command_environment(
            stack.environment
            | TIMES
            | {
                "DF_DEVICE": "cpu",
                "DF_DRAIN_S": "0",
                "DF_RUNNER_START": runner_start,
                # Its runners leave files, and are imported from where no runner may read.
                "DF_SANDBOX": "off",
                "DF_MODELS_DIR": str(models),
                "DF_LOCK_DIR": str(self.lock_dir),
                "DF_WEBHOOK_SECRETS": f"default:whsec_{base64.b64encode(bytes(32)).decode()}",
                "DF_WEBHOOK_PRIVATE": "127.0.0.1/32",
                "DF_API_PORT": str(free_port()),
                "TMPDIR": str(folder),
            }
        )
        self.settings = _settings(self._environment)
        self.store = open_store(self.settings)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.settings.api_port}", timeout=20
        )
        self.accepted: list[str] = []

    # Starting and ending --------------------------------------------------------------------------

    def start(self) -> None:
        self.api = self.start_api()
        self.worker = self.start_worker()

    def start_api(self) -> Process:
        api = self._start("gated_api", {})
        self._until_ready(api, f"http://127.0.0.1:{self.settings.api_port}/readyz", "the api")
        return api

    def start_worker(self) -> Process:
        port = str(free_port())
        worker = self._start("gated_worker", {"DF_WORKER_PORT": port})
        self._until_ready(worker, f"http://127.0.0.1:{port}/readyz", "the worker")
        return worker

    def close(self) -> None:
        self.client.close()
        self.store.close()
        for process in self._started:
            process.kill()
            process.wait(DEADLINE_S)
        for orphan in marked(self.lock_dir):
            with suppress(psutil.NoSuchProcess):
                orphan.kill()

    def kill(self, victim: str) -> None:
        """`kill -9`. The part stays away until `revive`."""
        match victim:
            case "api":
                self._end(self.api)
            case "worker":
                self._end(self.worker)
            case "runner":
                # The busy one, or else the standby.
                for runner in until(lambda: marked(self.lock_dir), "there is a runner to kill"):
                    with suppress(psutil.NoSuchProcess):  # it ended by itself a moment ago
                        runner.kill()
            case _:
                self.stack.kill(victim)

    def revive(self, victim: str) -> None:
        match victim:
            case "api":
                self.api = self.start_api()
            case "worker":
                self.worker = self.start_worker()
            case "runner":
                pass  # the worker starts another one
            case _:
                self.stack.restart(victim)

    # Jobs -----------------------------------------------------------------------------------------

    def picture(self) -> str:
        """The id of a picture to start from. The same one each time, so it is stored once."""
        buffer = io.BytesIO()
        PIL.Image.new("RGB", (64, 64), "red").save(buffer, "png")
        answer = self.client.post("/v1/inputs", files={"file": buffer.getvalue()})
        return str(answer.raise_for_status().json()["input"]["id"])

    def body(
        self, *, count: int = 2, chain: bool = False, image: str | None = None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"type": "generate", "prompt": "a red apple", "seed": 7}
        if chain:
            body["chain"] = {"upscale": {"scale": 2, "impl": "resample"}}
        if image is not None:
            body["image"] = image
        webhook = {"url": self.receiver.url, "events": ["start", "artifact", "end"]}
        return body | {"count": count, "webhook": webhook}

    def create(self, **options: Any) -> str:
        """Create a job as a careful client does: with one key, until the api accepts it."""
        key, body, deadline = str(uuid4()), self.body(**options), time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline, "no create was accepted"
            try:
                answer = self.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == 503:
                assert "Retry-After" in answer.headers
                time.sleep(0.05)
                continue
            assert answer.status_code == 202, answer.text
            job: str = answer.json()["job"]["id"]
            self.accepted.append(job)
            return job

    def wait_in_calls(self, job: str) -> str:
        """How the job ended, by calls that wait for it, as the Python client repeats them."""
        with Client(str(self.client.base_url)) as client:
            return client.wait(job).status

    def follow(self, job: str) -> Follower:
        return Follower(self.client.base_url, job)

    def worker_log(self) -> str:
        """The log of all workers so far."""
        return (self.folder / "gated_worker.log").read_text()

    def wait_standby(self) -> None:
        """Wait for a standby runner. The worker replaces a killed one with the next step."""
        self.wait_idle(self.worker)
        if not marked(self.lock_dir):
            self.wait_ended(self.create(count=1))
        until(lambda: marked(self.lock_dir), "a runner stands by")
        if self._runner_start == "template":  # and no fresh process in place of a fork
            until(lambda: _forks(self._metrics(self.worker)) > 0, "a runner is forked")

    def status(self, job: str) -> str | None:
        with suppress(psycopg.OperationalError), psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT status FROM jobs WHERE id = %s", (job,)).fetchone()
            return None if row is None else str(row[0])
        return None

    def wait_ended(self, job: str) -> str:
        ended = ("succeeded", "failed", "cancelled")
        until(lambda: self.status(job) in ended, f"job {job} ends; {self.log_tails()}")
        return str(self.status(job))

    def wait_idle(self, worker: Process) -> None:
        """Wait until the worker owns no step: every claim that it made has ended."""

        def idle() -> bool:
            assert worker.poll() is None, f"the worker ended; {self.log_tails()}"
            with suppress(httpx.TransportError):
                return _all_free(self._metrics(worker))
            return False

        until(idle, "the worker holds no step")

    def _metrics(self, worker: Process) -> str:
        return self._get(worker, self._addresses[worker.pid] + "metrics").text

    def events_of(self, job: str) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT count(*) FROM events WHERE job_id = %s", (job,))
            (count,) = row.fetchone() or (0,)
            return int(count)

    def wait_delivered(self, job: str) -> None:
        """Wait until the job's receiver has all that it is to get."""

        def delivered() -> bool:
            with psycopg.connect(self._url) as connection:
                query = "SELECT 1 FROM deliveries WHERE job_id = %s AND state <> 'delivered'"
                return connection.execute(query, (job,)).fetchone() is None

        until(delivered, f"the webhooks of {job} are delivered; {self.log_tails()}")

    def unnamed_objects(self) -> list[str]:
        """Objects below our prefix that no row names."""
        return self.settled().unnamed_objects()

    def settled(self) -> Settled:
        return Settled(
            accepted=self.accepted,
            settings=self.settings,
            store=self.store,
            lock_dir=self.lock_dir,
            overlaps_dir=self.folder,
            living_workers=[p.pid for p in self._started if p.poll() is None],
        )

    # Inside ---------------------------------------------------------------------------------------

    def _start(
        self,
        module: str,
        more: dict[str, str],
        prefix: Sequence[str] = (),
        through: Sequence[str] = (),
    ) -> Process:
        """`prefix` starts the command line; `through` is a module that runs ours."""
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *through, f"tests.support.{module}"],
                env=self._environment | {"PYTHONPATH": os.pathsep.join(sys.path)} | more,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def _until_ready(self, process: Process, url: str, name: str) -> None:
        self._addresses[process.pid] = url.removesuffix("readyz")

        def ready() -> bool:
            assert process.poll() is None, f"{name} ended; {self.log_tails()}"
            with suppress(httpx.TransportError):
                return self._get(process, url).status_code == 200
            return False

        until(ready, f"{name} is ready")

    def _get(self, process: Process, url: str) -> httpx.Response:
        """The answer of a process that we have started."""
        return httpx.get(url)

    def _end(self, process: Process) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)

    def log_tails(self) -> str:
        return "\n".join(
            f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log"))
        )


def _all_free(metrics: str) -> bool:
    states = [line for line in metrics.splitlines() if line.startswith("dreamforge_slot_state{")]
    now = [line for line in states if line.endswith(" 1.0")]
    return bool(now) and all('state="free"' in line for line in now)


def _forks(metrics: str) -> float:
    _, _, after = metrics.partition("\ndreamforge_template_forks_total")
    return float(after.split("\n", 1)[0].rpartition(" ")[2])


def _settings(environment: dict[str, str]) -> Settings:
    fields: dict[str, Any] = {
        name.removeprefix("DF_").lower(): value
        for name, value in environment.items()
        if name.startswith("DF_")
    }
    return Settings(_env_file=None, **fields)


@contextmanager
def running(
    stack: Infrastructure, database_url: str, folder: Path, *, runner_start: str = "template"
) -> Iterator[Bench]:
    with receiver() as listening:
        bench = Bench(stack, database_url, folder, listening, runner_start=runner_start)
        try:
            bench.start()
            yield bench
        finally:
            bench.close()


def in_background(work: Callable[[], T]) -> Callable[[], T]:
    """Start `work` on a thread and return a function that waits for its result."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return lambda: future.result(DEADLINE_S)
