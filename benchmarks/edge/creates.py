"""Creates a second, against bare FastAPI with one INSERT, in one run: `rows()`.

Both servers run all the time, with their default logs, on one PostgreSQL. Rounds of the two take
turns, so that a noisy minute meets both; the figures are medians of the rounds. Read the ratios.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import psycopg
from benchmarks.edge.client import rate, request_bytes
from migrations.upgrade import upgrade
from psycopg.types.json import Jsonb

from cli.stack.infrastructure import manage_processes, plan
from cli.state_dir import StateDir
from shared.db.engine import Database, driver_url
from shared.db.models import Model, upsert_model
from shared.models.verify import read_model

CLIENTS = (1, 16)
ROUNDS, REQUESTS = 7, 150
WARM_UP = 60
REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models/sd/dreamforge-demo@1"
REQUEST = request_bytes("/v1/jobs", {"type": "generate", "prompt": "a red apple"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One number of clients: requests a second, and CPU milliseconds of the server per request."""

    clients: int
    creates_s: float
    bare_s: float
    create_cpu_ms: float
    bare_cpu_ms: float

    @property
    def ratio(self) -> float:
        return self.creates_s / self.bare_s


def rows(environment: Mapping[str, str]) -> list[Row]:
    """Measure on these parts (`DF_DATABASE_URL`, …), whose schema is made here if need be.

    Registers the demo model and a live worker that has it, and leaves the jobs that it creates.
    """
    url = environment["DF_DATABASE_URL"]
    upgrade(url)
    _add_worker(url, _add_model(url))
    with ExitStack() as servers:
        ours = servers.enter_context(_api(environment))
        bare = servers.enter_context(_bare(url))
        for server in (ours, bare):
            server.measure(clients=4, requests=WARM_UP)
        return [_row(clients, ours, bare) for clients in CLIENTS]


def _row(clients: int, ours: _Server, bare: _Server) -> Row:
    readings = [
        (ours.measure(clients, REQUESTS), bare.measure(clients, REQUESTS)) for _ in range(ROUNDS)
    ]
    first, second = (
        [
            statistics.median(values)
            for values in zip(*(pair[side] for pair in readings), strict=True)
        ]
        for side in (0, 1)
    )
    return Row(
        clients=clients,
        creates_s=first[0],
        create_cpu_ms=first[1],
        bare_s=second[0],
        bare_cpu_ms=second[1],
    )


class _Server:
    """One process that answers `POST /v1/jobs`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self._port = psutil.Process(process.pid), port

    def measure(self, clients: int, requests: int) -> tuple[float, float]:
        """Requests a second, and CPU milliseconds of this process per request."""
        before = self._cpu_s()
        per_second = asyncio.run(rate(self._port, REQUEST, clients=clients, requests=requests))
        return per_second, (self._cpu_s() - before) * 1000 / requests

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def _api(environment: Mapping[str, str]) -> AbstractContextManager[_Server]:
    port = _free_port()
    return _start(["-m", "api"], port, {**environment, "DF_API_PORT": str(port)})


def _bare(url: str) -> AbstractContextManager[_Server]:
    port = _free_port()
    command = ["-m", "uvicorn", "benchmarks.edge.bare:app", "--port", str(port)]
    return _start(command, port, {"BARE_URL": driver_url(url)})


@contextmanager
def _start(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[_Server]:
    process = subprocess.Popen(  # noqa: S603 - the two servers above
        [sys.executable, *command],
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_ready(process, port)
        yield _Server(process, port)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RuntimeError(f"a server ended with {process.returncode}")


def _add_model(url: str) -> Model:
    async def main() -> Model:
        database = Database(url)
        try:
            return await database.transaction(upsert_model, read_model(MODEL))
        finally:
            await database.close()

    return asyncio.run(main())


def _add_worker(url: str, model: Model) -> None:
    """A live worker's row, with a heartbeat that does not age; no process is behind it."""
    slot = {"id": "0", "class": "cpu", "device": "cpu", "capacity_bytes": 1 << 40, "state": "free"}
    held = {"id": str(model.id), "checkpoint_sha256": model.checkpoint_sha256}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO workers (id, host, version, queues, slots, models, heartbeat_at) "
            "VALUES (%s, 'benchmark', '1', %s, %s, %s, now() + interval '1 day')",
            (
                uuid4(),
                Jsonb(["default"]),
                Jsonb([slot]),
                Jsonb([held]),
            ),
        )


def table(measured: list[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = [
        "| clients | creates a second | bare, one INSERT | ratio | CPU ms a create | bare |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.clients} | {row.creates_s:.0f} | {row.bare_s:.0f} | {row.ratio:.2f} "
        f"| {row.create_cpu_ms:.2f} | {row.bare_cpu_ms:.2f} |"
        for row in measured
    ]
    return "\n".join(lines)


def main() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    with tempfile.TemporaryDirectory() as folder:
        with manage_processes(StateDir(Path(folder)), notify=lambda line: None) as manager:
            parts = plan(StateDir(Path(folder)), clean)
            parts.start(manager)
            sys.stdout.write(table(rows(dict(parts.environment))) + "\n")


if __name__ == "__main__":
    main()
