"""Check what must hold when the system is at rest, whatever was killed before (DESIGN §4).

`Settled.findings` reads the database, the object store and the process table and returns a line for
each fault. It asks PostgreSQL in plain SQL and the kernel through /proc, never the code under test.
`test_invariants.py` plants one fault of each kind and checks that it is found.

A kill may leave an object whose row was never written; `prune` removes it once it is old enough.
`unnamed_objects` lists these apart, since only the test knows whether one is allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import psycopg
from tests.support.crash_runner import OVERLAPS
from tests.support.stored_objects import stored_keys
from tests.support.worker_process import marked

from shared.object_store import ObjectStore
from shared.settings import Settings

PREFIX = "dreamforge/"
TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A system at rest. `accepted` are the ids that clients were given with a 202."""

    accepted: Collection[str]
    settings: Settings
    store: ObjectStore
    lock_dir: Path
    overlaps_dir: Path
    living_workers: Iterable[int] = ()

    def findings(self) -> list[str]:
        url = self.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as connection:
            return [
                *self._jobs(connection),
                *self._steps(connection),
                *self._events(connection),
                *self._artifacts(connection),
                *self._processes(),
                *self._overlaps(),
            ]

    def unnamed_objects(self) -> list[str]:
        """Keys below our prefix that no row names."""
        stored = set(anyio.run(stored_keys, self.store, PREFIX))
        with psycopg.connect(self.settings.database_url.get_secret_value()) as connection:
            rows = "SELECT s3_key FROM artifacts UNION SELECT s3_key FROM inputs"
            named = {key for (key,) in connection.execute(rows)}
        return sorted(stored - named)

    def _jobs(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = dict(connection.execute("SELECT id::text, status FROM jobs").fetchall())
        findings = [f"lost: job {job} was accepted and has no row" for job in self._missing(rows)]
        findings += [
            f"doubled: job {job} was accepted by nobody" for job in rows.keys() - set(self.accepted)
        ]
        findings += [
            f"lost: job {job} is {status}" for job, status in rows.items() if status not in TERMINAL
        ]
        return findings

    def _missing(self, rows: Collection[str]) -> list[str]:
        return [job for job in self.accepted if job not in rows]

    def _steps(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = connection.execute(
            "SELECT id::text, state, attempt, losses, lease_owner FROM steps"
        ).fetchall()
        findings = []
        for step, state, attempt, losses, owner in rows:
            if state not in TERMINAL or owner is not None:
                findings.append(f"lost: step {step} is {state}, owned by {owner}")
            if attempt > self.settings.max_attempts or losses > self.settings.max_losses:
                findings.append(f"unbounded: step {step} has {attempt} attempts, {losses} losses")
        return findings

    def _events(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = connection.execute(
            "SELECT j.id::text, j.event_seq, count(e.seq), min(e.seq), max(e.seq),"
            " count(*) FILTER (WHERE e.code = 'job.created'),"
            " count(*) FILTER (WHERE e.code = 'job.finish')"
            " FROM jobs j LEFT JOIN events e ON e.job_id = j.id GROUP BY j.id"
        ).fetchall()
        findings = []
        for job, last, count, first, highest, created, finished in rows:
            if (count, first, highest) != (last, 1, last):
                findings.append(
                    f"events: job {job} has {count} from {first} to {highest} of {last}"
                )
            if (created, finished) != (1, 1):
                findings.append(
                    f"doubled: job {job} was created {created} and ended {finished} times"
                )
        return findings

    def _artifacts(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = connection.execute("SELECT s3_key, sha256, size_bytes FROM artifacts").fetchall()
        findings = [*self._incomplete(connection), *self._unequal_numbers(connection)]
        for key, sha256, size_bytes in rows:
            data = anyio.run(self.store.get, key)
            if data is None:
                findings.append(f"dangling: {key} has a row and no object")
            elif (len(data), hashlib.sha256(data).hexdigest()) != (size_bytes, sha256):
                findings.append(f"dangling: the object of {key} is not the one of its row")
        return findings

    def _incomplete(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = connection.execute(
            "SELECT s.id::text, j.count, count(a.id) FROM steps s JOIN jobs j ON j.id = s.job_id"
            " LEFT JOIN artifacts a ON a.step_id = s.id WHERE s.state = 'succeeded'"
            " GROUP BY s.id, j.count HAVING count(a.id) <> j.count"
        ).fetchall()
        return [f"lost: step {step} has {made} of {count} pictures" for step, count, made in rows]

    def _unequal_numbers(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = connection.execute(
            "SELECT step_id::text, item_index, count(*) FROM artifacts"
            " GROUP BY step_id, item_index HAVING count(*) > 1"
        ).fetchall()
        return [f"doubled: step {step} has item {item} {n} times" for step, item, n in rows]

    def _processes(self) -> list[str]:
        """A worker at rest has one standby for each slot, its templates and no other process."""
        findings = []
        below: dict[int, list[int]] = {worker: [] for worker in self.living_workers}
        for process in marked(self.lock_dir):
            above = [parent.pid for parent in _ancestors(process) if parent.pid in below]
            if not _lives(process):
                continue
            if above:
                below[above[0]].append(process.pid)
            else:
                findings.append(f"orphan: process {process.pid} of a worker that is gone")
        for worker, pids in below.items():
            if len(pids) > self.settings.cpu_slots + self._templates:
                findings.append(
                    f"orphan: worker {worker} rests and has {len(pids)} runners: {pids}"
                )
        return findings

    @property
    def _templates(self) -> int:
        """The plain one, and that of the one model there is."""
        return 0 if self.settings.runner_start == "spawn" else 2

    def _overlaps(self) -> list[str]:
        path = self.overlaps_dir / OVERLAPS
        steps = path.read_text().split() if path.exists() else []
        return [f"overlap: step {step} had two runners at once" for step in steps]


def _ancestors(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.parents()
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
