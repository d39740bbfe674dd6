"""The servers that the benchmarks of the edge ask, and the parts that they need."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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
from shared.db.connect import DRIVER
from shared.db.engine import Database
from shared.db.models import Model, upsert_model
from shared.models.verify import read_model

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models/sd/dreamforge-demo@1"
REQUEST = request_bytes("/v1/jobs", {"type": "generate", "prompt": "a red apple"})


@contextmanager
def parts() -> Iterator[dict[str, str]]:
    """PostgreSQL, broker and store in a temporary folder; the settings that name them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    with tempfile.TemporaryDirectory() as folder:
        with manage_processes(StateDir(Path(folder)), notify=lambda line: None) as manager:
            planned = plan(StateDir(Path(folder)), clean)
            planned.start(manager)
            upgrade(planned.environment["DF_DATABASE_URL"], planned.admin_url)
            yield dict(planned.environment)


def fill_database(url: str) -> None:
    """Register the demo model and a live worker that has it."""
    _add_worker(url, _add_model(url))


class Server:
    """One process that answers `POST /v1/jobs`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self.port = psutil.Process(process.pid), port

    def measure(self, clients: int, requests: int) -> tuple[float, float]:
        """Requests a second, and CPU milliseconds of this process per request."""
        before = self._cpu_s()
        per_second = asyncio.run(rate(self.port, REQUEST, clients=clients, requests=requests))
        return per_second, (self._cpu_s() - before) * 1000 / requests

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def start_api(environment: Mapping[str, str]) -> AbstractContextManager[Server]:
    """`python -m api` on a free port, ready."""
    port = _free_port()
    return _start(["-m", "api"], port, {**environment, "DF_API_PORT": str(port)})


def start_bare(url: str) -> AbstractContextManager[Server]:
    """What it is compared with, ready."""
    port = _free_port()
    command = ["-m", "uvicorn", "benchmarks.edge.bare:app", "--port", str(port)]
    return _start(command, port, {"BARE_URL": DRIVER + url.partition("://")[2]})


@contextmanager
def _start(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[Server]:
    process = subprocess.Popen(  # noqa: S603 - the two servers above
        [sys.executable, *command],
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_ready(process, port)
        yield Server(process, port)
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
