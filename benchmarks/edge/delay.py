"""How long after its commit an event reaches an open stream: `python -m benchmarks.edge.delay`.

This process commits events as a worker does and reads one stream of a real api process. Commits
that are announced on the broker's channel, and some that are not, take turns, at moments that have
nothing to do with the reader's pause. The time is that of this process, from the return of the
commit to the arrival of the event.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
import httpx
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from benchmarks.edge.servers import fill_database, parts, start_api

from shared.db.engine import Connection, Database
from shared.db.events import append_events
from shared.dispatch.event_channel import EventPublisher
from shared.events import NewEvent

EVENTS = 100
# Between two events. The longer ones are longer than the reader's pause.
PAUSES_S = (0.05, 0.35)
LONGEST_EVENT = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Delays:
    """Seconds from commit to arrival: of events that were announced, and of others."""

    announced_s: list[float]
    not_announced_s: list[float]


def delays(environment: Mapping[str, str]) -> Delays:
    """Measure on these parts (`DF_DATABASE_URL`, …), whose schema is made here if need be."""
    fill_database(environment["DF_DATABASE_URL"])
    with start_api(environment) as server:
        return anyio.run(_measure, environment, f"http://127.0.0.1:{server.port}", server.port)


async def _measure(environment: Mapping[str, str], base: str, port: int) -> Delays:
    url = environment["DF_DATABASE_URL"]
    publisher = EventPublisher(environment["DF_REDIS_URL"])
    announcing, silent = Database(url, on_events=publisher.publish), Database(url)
    job = await _create(base)
    measured = Delays(announced_s=[], not_announced_s=[])
    async with (
        anyio.create_task_group() as tasks,
        await anyio.connect_tcp("127.0.0.1", port) as link,
    ):
        tasks.start_soon(publisher.run)
        stream = await _open(link, job)
        for _ in range(EVENTS):
            measured.announced_s.append(await _delay(announcing, job, stream))
            measured.not_announced_s.append(await _delay(silent, job, stream))
        tasks.cancel_scope.cancel()
    for database in (announcing, silent):
        await database.close()
    await publisher.close()
    return measured


async def _open(link: ByteStream, job: UUID) -> BufferedByteReceiveStream:
    """The job's stream, read up to its first event."""
    path = f"/v1/jobs/{job}/progress/stream"
    await link.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    stream = BufferedByteReceiveStream(link)
    await stream.receive_until(b"job.created", LONGEST_EVENT)
    return stream


async def _delay(database: Database, job: UUID, stream: BufferedByteReceiveStream) -> float:
    text = f"event {uuid4().hex}"

    async def work(connection: Connection) -> None:
        event = NewEvent(code="progress", message=text, payload={"progress": 0.1})
        await append_events(connection, job, [event])

    await anyio.sleep(random.uniform(*PAUSES_S))  # noqa: S311 - not for secrets
    await database.transaction(work)
    began = time.perf_counter()
    await stream.receive_until(text.encode(), LONGEST_EVENT)
    return time.perf_counter() - began


async def _create(base: str) -> UUID:
    async with httpx.AsyncClient(base_url=base, timeout=30) as client:
        answer = await client.post("/v1/jobs", json={"type": "generate", "prompt": "a red apple"})
    return UUID(answer.raise_for_status().json()["job"]["id"])


def table(measured: Delays) -> str:
    """Medians and tails as a table of Markdown."""
    lines = ["| milliseconds | median | of ten, the slowest |", "|---|---|---|"]
    for name, values in (
        ("announced", measured.announced_s),
        ("not announced", measured.not_announced_s),
    ):
        tail = statistics.quantiles(values, n=10)[-1]
        lines.append(f"| {name} | {statistics.median(values) * 1000:.0f} | {tail * 1000:.0f} |")
    return "\n".join(lines)


def main() -> None:
    with parts() as environment:
        sys.stdout.write(table(delays(environment)) + "\n")


if __name__ == "__main__":
    main()
