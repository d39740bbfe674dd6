"""`make soak`: many small jobs, two workers, and random kills. Prints the outcome.

Everything is real, see `crash_bench`. A creator keeps sending jobs (half of them chains), clients
follow some of them over SSE and reconnect with `Last-Event-ID`, and every few seconds one process
gets SIGKILL and restarts. When all jobs have ended, the checker of the crash matrix checks the
system. The seed is printed: the same seed kills in the same order.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from migrations.upgrade import upgrade
from tests.support.crash_bench import Bench, Process, running
from tests.support.follower import Follower
from tests.support.infrastructure import Infrastructure, infrastructure
from tests.support.worker_process import DEADLINE_S, marked

VICTIMS = ("worker", "other worker", "runner", "api", "broker", "postgres", "store")
# This many of ten jobs have a client that follows them.
FOLLOWED = 2
AT_ONCE = 8


@dataclass(kw_only=True)
class Report:
    """The result. `recoveries_s` are the times from a kill to the next finished job."""

    seed: int
    jobs: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    streams: int = 0
    reconnects: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """The checker found nothing, and every requested job has succeeded."""
        return not self.findings and self.ended == {"succeeded": self.jobs}

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        ended = ", ".join(f"{count} {status}" for status, count in self.ended.items())
        slowest = max(self.recoveries_s, default=0.0)
        lines = [
            f"seed              {self.seed}",
            f"jobs              {self.jobs} in {self.seconds:.0f} s: {ended}",
            f"kills             {self.kills.total()}: {kills}",
            f"retries           {self.retries}",
            f"longest recovery  {slowest:.1f} s from a kill to the next finished job",
            f"streams           {self.streams} followed, {self.reconnects} reconnects",
            f"findings          {len(self.findings)}"
            " (lost, doubled, dangling, overlapping, orphaned)",
        ]
        return "\n".join([*lines, *(f"  {line}" for line in self.findings)])


class Soak:
    def __init__(self, bench: Bench, url: str, *, jobs: int, pause_s: float, seed: int) -> None:
        self._bench = bench
        self._url = url
        self._jobs = jobs
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._other = bench.start_worker()
        self._over = threading.Event()
        self._last_finished = 0
        self._followers: list[Follower] = []
        self.report = Report(seed=seed, jobs=jobs)

    def run(self, *, at_most_s: float) -> Report:
        started, victims = time.monotonic(), self._victims()
        with ThreadPoolExecutor(1) as pool:
            creator = pool.submit(self._create)
            try:
                while self._unfinished(creator) and time.monotonic() < started + at_most_s:
                    time.sleep(self._pause_s)
                    self._kill(next(victims))
                creator.result(at_most_s + DEADLINE_S)
            finally:
                self._over.set()
        if len(self._bench.accepted) < self._jobs:
            self.report.findings.append("stuck: jobs were not created")
        for job in self._bench.accepted:  # without further kills
            self.report.ended[self._bench.wait_ended(job)] += 1
        self.report.seconds = time.monotonic() - started
        for worker in (self._bench.worker, self._other):
            self._bench.wait_idle(worker)
        self._check()
        return self.report

    def _victims(self) -> Iterator[str]:
        """Each victim in turn, in random order, without end."""
        while True:
            yield from self._random.sample(VICTIMS, len(VICTIMS))

    def _create(self) -> None:
        for number in range(self._jobs):
            while self._waiting() >= AT_ONCE:
                if self._over.is_set():
                    return
                time.sleep(0.05)
            job = self._bench.create(count=1 + number % 3, chain=number % 2 == 1)
            if number % 10 < FOLLOWED:
                self._followers.append(Follower(self._bench.client.base_url, job))

    def _waiting(self) -> int:
        return len(self._bench.accepted) - self._finished()

    def _finished(self) -> int:
        with suppress(psycopg.OperationalError), psycopg.connect(self._url) as connection:
            found = connection.execute("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
            self._last_finished = int((found.fetchone() or (0,))[0])
        return self._last_finished

    def _unfinished(self, creator: Future[None]) -> bool:
        return not creator.done() or self._waiting() > 0

    def _kill(self, victim: str) -> None:
        before, when = self._finished(), time.monotonic()
        self.report.kills[victim] += 1
        match victim:
            case "other worker":
                self._end(self._other)
                self._other = self._bench.start_worker()
            case "runner":
                for runner in marked(self._bench.lock_dir):
                    with suppress(psutil.NoSuchProcess):  # it ended by itself a moment ago
                        runner.kill()
            case _:
                self._bench.kill(victim)
                self._bench.revive(victim)
        while self._finished() == before and self._waiting() > 0:
            assert time.monotonic() < when + DEADLINE_S, f"no job ended after {victim} was killed"
            time.sleep(0.02)
        self.report.recoveries_s.append(time.monotonic() - when)

    def _end(self, process: Process) -> None:
        process.kill()
        process.wait()

    def _check(self) -> None:
        report = self.report
        report.findings += self._bench.settled().findings()
        with psycopg.connect(self._url) as connection:
            # By the step's own worker, or by a rescuer after that worker was killed.
            found = connection.execute(
                "SELECT count(*) FROM events WHERE code = 'retry'"
                " OR code = 'lease.expired' AND payload->>'state' = 'queued'"
            )
            report.retries = int((found.fetchone() or (0,))[0])
            rows = connection.execute("SELECT id::text, event_seq FROM jobs").fetchall()
            last: dict[str, int] = dict(rows)
        for follower in self._followers:
            report.streams += 1
            if (finding := follower.finding(last[follower.job])) is not None:
                report.findings.append(finding)
            report.reconnects += follower.reconnects


@contextmanager
def soaking(
    stack: Infrastructure, url: str, folder: Path, *, jobs: int, pause_s: float, seed: int
) -> Iterator[Soak]:
    with running(stack, url, folder) as bench:
        yield Soak(bench, url, jobs=jobs, pause_s=pause_s, seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--pause-s", type=float, default=3.0, help="between two kills")
    parser.add_argument("--at-most-s", type=float, default=600.0, help="then the kills end")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    with tempfile.TemporaryDirectory() as place:
        home, folder = Path(place) / "home", Path(place) / "soak"
        folder.mkdir()
        with infrastructure(home, clean) as stack:
            url = stack.environment["DF_DATABASE_URL"]
            upgrade(url)
            with soaking(
                stack, url, folder, jobs=args.jobs, pause_s=args.pause_s, seed=args.seed
            ) as soak:
                report = soak.run(at_most_s=args.at_most_s)
    sys.stdout.write(f"{report}\n")
    return 0 if report.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
