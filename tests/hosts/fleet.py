"""Api and parts on one host, a worker on each of the others, and jobs that are held on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg
from tests.hosts.clocks import Clock
from tests.hosts.network import Host, Wire
from tests.support import quick_timings
from tests.support.crash_bench import Bench, Process
from tests.support.crash_runner import LOCKS, holder_of
from tests.support.follower import Follower
from tests.support.infrastructure import Infrastructure
from tests.support.webhook_receiver import Receiver
from tests.support.worker_process import free_port

HELD = "mid item"
AT_ONCE = 6
# Shorter than the usual one, and long enough for a machine that has other work to do.
LEASE_S = 20.0
TIMES = quick_timings.in_environment(
    lease_s=LEASE_S,
    lease_renew_s=4.0,
    lease_margin_s=0.5,
    term_grace_s=0.5,
    kill_deadline_s=2.0,
    exit_grace_s=20.0,
    poll_s=0.5,
    heartbeat_s=2.0,
    rescue_every_s=1.0,
    retry_base_s=0.05,
    retry_cap_s=0.2,
)
DEADLINE_S = 240.0
# One that asks more often takes the time of those that it waits for.
ASK_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class HeldJob:
    """A job whose runner waits in the middle of its first picture."""

    id: str
    host: Host
    runner: int


class Fleet(Bench):
    """`hosts` have a worker each; `hub` has everything else, and this process."""

    def __init__(
        self,
        stack: Infrastructure,
        folder: Path,
        receiver: Receiver,
        *,
        hub: Host,
        hosts: list[Host],
        wire: Wire,
    ) -> None:
        url = stack.environment["DF_DATABASE_URL"]
        super().__init__(stack, url, folder, receiver, runner_start="template")
        # A contained template could not import the runners of the tests.
        self._environment |= TIMES | {"DF_SANDBOX": "off"}
        self._database = psycopg.connect(url, autocommit=True)
        self._places: dict[int, Host] = {}
        self.hub, self.hosts, self.wire = hub, hosts, wire
        self.workers: dict[str, Process] = {}
        self._clocks: dict[str, Clock] = {}
        self.followers: list[Follower] = []

    def close(self) -> None:
        self._database.close()
        super().close()

    # Processes ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.api = self.start_api()
        ports = {host.name: free_port() for host in self.hosts}
        for host in self.hosts:
            self.workers[host.name] = self.start_on(host, ports[host.name])
        for name, worker in self.workers.items():
            self._until_ready(worker, f"http://127.0.0.1:{ports[name]}/readyz", f"worker {name}")

    def start_on(self, host: Host, port: int, **settings: str) -> Process:
        worker = self._start_at_clock(
            "gated_worker", host, settings | {"DF_WORKER_PORT": str(port)}, prefix=host.prefix
        )
        self._places[worker.pid] = host
        return worker

    def start_api(self) -> Process:
        api = self._start_at_clock("gated_api", self.hub, {})
        self._until_ready(api, f"http://127.0.0.1:{self.settings.api_port}/readyz", "the api")
        return api

    def _start_at_clock(
        self, module: str, host: Host, settings: dict[str, str], prefix: Sequence[str] = ()
    ) -> Process:
        if (clock := self._clocks.get(host.name)) is None:
            return self._start(module, settings, prefix)
        return self._start(
            module, settings | clock.environment, prefix, through=["tests.hosts.clocks"]
        )

    def send(self, host: Host, number: signal.Signals, *, runner_first: bool) -> None:
        """A signal to every process of a host."""
        worker = psutil.Process(self.workers[host.name].pid)
        processes = [worker, *worker.children(recursive=True)]
        for process in reversed(processes) if runner_first else processes:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                process.send_signal(number)

    # Clocks ---------------------------------------------------------------------------------------

    def clock(self, host: Host) -> Clock:
        """The clock of the api or of a worker, which is started again to have one."""
        if host.name not in self._clocks:
            self._clocks[host.name] = clock = Clock(self.folder / f"clock-{host.name}")
            clock.set(0)
            if host is self.hub:
                self._end(self.api)
                self.api = self.start_api()
            else:
                self._replace_worker(host)
        return self._clocks[host.name]

    def _replace_worker(self, host: Host) -> None:
        worker, port = self.workers[host.name], free_port()
        worker.terminate()
        worker.wait(DEADLINE_S)
        self.workers[host.name] = self.start_on(host, port)
        self._until_ready(
            self.workers[host.name], f"http://127.0.0.1:{port}/readyz", f"worker {host.name}"
        )

    def readiness(self, process: Process) -> httpx.Response:
        return self._get(process, self._addresses[process.pid] + "readyz")

    def log_says(self, module: str, *words: str) -> bool:
        """Whether one line of the log has all of these."""
        lines = (self.folder / f"{module}.log").read_text().splitlines()
        return any(all(each in line for each in words) for line in lines)

    def url_answers(self, job: str) -> int:
        """What the store says to the URL that the api signs now."""
        answer = self.client.get(f"/v1/jobs/{job}/artifacts").raise_for_status()
        return httpx.get(answer.json()["artifacts"][0]["url"]).status_code

    # The network ----------------------------------------------------------------------------------

    def cut(self, host: Host, *, to_hub: bool, from_hub: bool) -> None:
        self.wire.direction(host.name, self.hub.name).is_cut = to_hub
        self.wire.direction(self.hub.name, host.name).is_cut = from_hub

    def slow_down(self, *, delay_s: float, loss: float) -> None:
        for host in self.hosts:
            for ends in ((host.name, self.hub.name), (self.hub.name, host.name)):
                direction = self.wire.direction(*ends)
                direction.delay_s, direction.loss = delay_s, loss

    # Jobs -----------------------------------------------------------------------------------------

    def run_jobs(self, count: int) -> None:
        """So many jobs, a few at once; every third has a client that follows it."""
        made: list[str] = []
        for number in range(count):
            self.until(lambda: self.open_jobs(made) < AT_ONCE, "jobs end")
            made.append(self.create(count=1 + number % 3, chain=number % 2 == 1))
            if number % 3 == 0:
                self.followers.append(self.follow(made[-1]))
        self.wait_all_ended()

    def held_job(self) -> HeldJob:
        self.gates.arm(HELD)
        job = self.create(count=2)
        self.followers.append(self.follow(job))
        self.until(lambda: self.gates.is_reached(HELD), "a runner is held")
        ((step,),) = self.rows("SELECT id::text FROM steps WHERE job_id = %s", job)
        runner = holder_of(os.stat(self.folder / LOCKS / str(step)).st_ino)
        assert runner is not None
        above = {parent.pid for parent in psutil.Process(runner).parents()}
        (name,) = (name for name, worker in self.workers.items() if worker.pid in above)
        host = next(host for host in self.hosts if host.name == name)
        return HeldJob(id=job, host=host, runner=runner)

    def open_jobs(self, jobs: list[str]) -> int:
        query = "SELECT count(*) FROM jobs WHERE finished_at IS NULL AND id = ANY(%s::uuid[])"
        ((count,),) = self.rows(query, jobs)
        return int(str(count))

    def losses(self, job: str) -> int:
        ((losses,),) = self.rows("SELECT sum(losses) FROM steps WHERE job_id = %s", job)
        return int(str(losses))

    def wait_ended(self, job: str) -> str:
        self.until(lambda: self.open_jobs([job]) == 0, f"job {job} ends")
        return str(self.status(job))

    def wait_all_ended(self) -> None:
        self.until(lambda: self.open_jobs(self.accepted) == 0, "all jobs end")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}; {self.log_tails()}"
            time.sleep(ASK_EVERY_S)

    def wait_gone(self, pid: int) -> None:
        def gone() -> bool:
            with suppress(psutil.NoSuchProcess):
                return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            return True

        self.until(gone, f"process {pid} ends")

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        return self._database.execute(query.encode(), values).fetchall()

    def put_back(self) -> int:
        """How often a step went back to the queue: by its worker, or by a rescuer."""
        ((count,),) = self.rows(
            "SELECT count(*) FROM events WHERE code = 'retry'"
            " OR code = 'lease.expired' AND payload->>'state' = 'queued'"
        )
        return int(str(count))

    def findings(self) -> list[str]:
        """What the checker says, and the streams of clients."""
        for worker in self.workers.values():
            self.wait_idle(worker)
        found = self.settled().findings()
        statuses = self.rows("SELECT status, id, error FROM jobs WHERE status <> 'succeeded'")
        found += [f"{status}: job {job}: {error}" for status, job, error in statuses]
        last = {str(job): int(str(seq)) for job, seq in self.rows("SELECT id, event_seq FROM jobs")}
        streams = [each.finding(last[each.job]) for each in self.followers]
        self.followers = []
        return found + [each for each in streams if each is not None]

    def _get(self, process: Process, url: str) -> httpx.Response:
        time.sleep(ASK_EVERY_S)
        host = self._places.get(process.pid)
        return httpx.get(url) if host is None else host.call(lambda: httpx.get(url))
