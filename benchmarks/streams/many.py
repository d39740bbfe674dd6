"""What a thousand open progress streams cost one api process: memory, connections, time.

`make bench-streams` starts PostgreSQL, broker and store in a temporary folder, and one real `api`
process. It is measured before, with the streams open, and after they went. The figures of one run
belong together; read the ratios.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import psycopg
from migrations.upgrade import upgrade

from api.server import raise_file_limit
from cli.stack.infrastructure import manage_processes, plan
from cli.state_dir import StateDir
from shared.db import events, models
from shared.db.engine import Connection, Database
from shared.db.events import NewEvent
from shared.models.verify import read_model

STREAMS, JOBS = 1000, 100
ROUNDS = 5
QUIET_S = 5.0
# PostgreSQL's sessions report what they did at the latest when they were idle for 10 s.
SETTLE_S = 11.0
MODEL = Path(__file__).parents[2] / "models/sd/dreamforge-demo@1"
BODY = {"type": "generate", "prompt": "a red apple"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """`transactions_s`: per second, of all sessions of this database, while nothing happens."""

    rss_mib: float
    connections: int
    transactions_s: float
    cpu_percent: float


class Measured:
    """One api process and its database."""

    def __init__(self, process: subprocess.Popen[bytes], database_url: str) -> None:
        self._process = psutil.Process(process.pid)
        self._url = database_url

    def read(self) -> Reading:
        time.sleep(SETTLE_S)
        before, began = self._transactions(), time.monotonic()
        self._process.cpu_percent()
        time.sleep(QUIET_S)
        cpu_percent = self._process.cpu_percent()
        seconds = time.monotonic() - began
        return Reading(
            rss_mib=self._process.memory_info().rss / 2**20,
            connections=self._scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dreamforge-api'"
            ),
            transactions_s=(self._transactions() - before) / seconds,
            cpu_percent=cpu_percent,
        )

    def _transactions(self) -> int:
        return self._scalar(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )

    def _scalar(self, query: str) -> int:
        with psycopg.connect(self._url, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def api(environment: dict[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, **environment, "DF_API_PORT": str(port), "DF_LOG_LEVEL": "ERROR"}
    process = subprocess.Popen([sys.executable, "-m", "api"], env=environ)
    try:
        while process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


async def opened(port: int, job: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream, read up to the job's first event."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = f"/v1/jobs/{job}/progress/stream"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"job.created")
    return reader, writer


async def delivery_s(
    database: Database, jobs: list[str], readers: list[asyncio.StreamReader], number: int
) -> float:
    """From the commit of one event per job until the last stream has it."""

    async def work(connection: Connection) -> None:
        for job in jobs:
            event = NewEvent(code="progress", message=f"round-{number}.", payload={"progress": 0.1})
            await events.append_events(connection, UUID(job), [event])

    await database.transaction(work)
    began = time.monotonic()
    await asyncio.gather(*(reader.readuntil(f"round-{number}.".encode()) for reader in readers))
    return time.monotonic() - began


async def run(measured: Measured, database_url: str, port: int) -> None:
    database = Database(database_url)
    descriptor = read_model(MODEL)
    await database.transaction(models.upsert_model, descriptor)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        answers = await asyncio.gather(*(client.post("/v1/jobs", json=BODY) for _ in range(JOBS)))
        jobs = [answer.raise_for_status().json()["job"]["id"] for answer in answers]
        before = await asyncio.to_thread(measured.read)
        began = time.monotonic()
        streams = [
            stream
            for start in range(0, STREAMS, 100)
            for stream in await asyncio.gather(
                *(opened(port, jobs[n % JOBS]) for n in range(start, start + 100))
            )
        ]
        opening_s = time.monotonic() - began
        during = await asyncio.to_thread(measured.read)
        delays_s = [
            await delivery_s(database, jobs, [reader for reader, _ in streams], number)
            for number in range(ROUNDS)
        ]
        refused = (await client.get(f"/v1/jobs/{jobs[0]}/progress/stream")).status_code
        for _, writer in streams:
            writer.transport.abort()
        while "dreamforge_sse_clients 0.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        after = await asyncio.to_thread(measured.read)
    await database.close()
    show(before, during, after)
    say(f"opening {STREAMS} streams of {JOBS} jobs: {opening_s:.1f} s")
    say(f"one event per job at {STREAMS} clients: {statistics.median(delays_s):.2f} s (median)")
    say(f"one more stream: {refused}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def show(before: Reading, during: Reading, after: Reading) -> None:
    say(f"{'':24}{'before':>10}{'open':>10}{'gone':>10}{'open/before':>13}")
    for name in Reading.__slots__:
        first, second, third = (float(getattr(each, name)) for each in (before, during, after))
        ratio = f"{second / first:.2f}" if first else ""
        say(f"{name:24}{first:>10.1f}{second:>10.1f}{third:>10.1f}{ratio:>13}")
    say(f"KiB per client: {(during.rss_mib - before.rss_mib) * 1024 / STREAMS:.1f}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def measured_api(clients: int) -> Iterator[tuple[Measured, str, int]]:
    """One api process with its parts, the address of its database, and its port."""
    if (why := raise_file_limit(clients)) is not None:
        raise SystemExit(why)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    with tempfile.TemporaryDirectory() as folder:
        home = StateDir(Path(folder))
        with manage_processes(home, notify=print) as manager:
            parts = plan(home, clean)
            parts.start(manager)
            url, port = parts.environment["DF_DATABASE_URL"], free_port()
            upgrade(url, parts.admin_url)
            with api(dict(parts.environment), port) as process:
                yield Measured(process, url), url, port


def main() -> None:
    with measured_api(STREAMS) as (measured, url, port):
        asyncio.run(run(measured, url, port))


if __name__ == "__main__":
    main()
