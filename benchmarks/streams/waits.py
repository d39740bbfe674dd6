"""What a thousand calls that wait for their job cost one api process: memory, connections, time.

`make bench-waits`: `GET /v1/jobs/{id}?wait=60`, a thousand of them for a hundred jobs, in the
surroundings of `many.py`. It is measured before, with all of them waiting, and after their jobs
have ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from uuid import UUID

import httpx
from benchmarks.streams.many import BODY, JOBS, MODEL, Measured, measured_api, say, show
from benchmarks.streams.many import STREAMS as CALLS

from shared.db import jobs, models
from shared.db.engine import Connection, Database
from shared.models.verify import read_model
from shared.states import Reason, Status


async def call(port: int, job: str) -> str:
    """The status line of the answer and whether the job has ended in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = f"GET /v1/jobs/{job}?wait=60 HTTP/1.1"
    writer.write(f"{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    ended = ", job ended" if b'"status":"cancelled"' in body else ""
    return head.partition(b"\r\n")[0].decode() + ended


async def until_waiting(client: httpx.AsyncClient, count: int) -> None:
    series = f"\ndreamforge_waiting_calls {count:.1f}\n"
    while series not in (await client.get("/metrics")).text:  # noqa: ASYNC110
        await asyncio.sleep(0.2)


async def end_all(database: Database, ids: list[str]) -> None:
    """End the jobs in one transaction, as a cancel does."""

    async def work(connection: Connection) -> None:
        for id in ids:
            facts = {"status": Status.CANCELLED, "reason": Reason.CANCELLED, "error": None}
            await jobs.finish_job(connection, UUID(id), **facts)

    await database.transaction(work)


async def run(measured: Measured, database_url: str, port: int) -> None:
    database = Database(database_url)
    await database.transaction(models.upsert_model, read_model(MODEL))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        ids = []
        for _ in range(JOBS):
            answer = await client.post("/v1/jobs", json=BODY)
            ids.append(answer.raise_for_status().json()["job"]["id"])
        before = await asyncio.to_thread(measured.read)
        began = time.monotonic()
        calls = asyncio.gather(*(call(port, ids[number % JOBS]) for number in range(CALLS)))
        await until_waiting(client, CALLS)
        opening_s = time.monotonic() - began
        during = await asyncio.to_thread(measured.read)
        refused = (await client.get(f"/v1/jobs/{ids[0]}", params={"wait": 60})).status_code
        await end_all(database, ids)
        began = time.monotonic()
        results = Counter(await calls)
        answering_s = time.monotonic() - began
        await until_waiting(client, 0)
        after = await asyncio.to_thread(measured.read)
    await database.close()
    show(before, during, after)
    say(f"{CALLS} calls for {JOBS} jobs wait after: {opening_s:.1f} s")
    say(f"all answered after the commit of the ends: {answering_s:.1f} s; {dict(results)}")
    say(f"one more call: {refused}")


def main() -> None:
    with measured_api(CALLS) as (measured, url, port):
        asyncio.run(run(measured, url, port))


if __name__ == "__main__":
    main()
