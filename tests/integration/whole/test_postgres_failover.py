"""A failover of PostgreSQL under running services: the primary only reads, its standby takes over.

Replication is synchronous, so the standby has every commit that was answered. Without that a
failover loses the last ones, of ours as of everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import text
from tests.support import quick_timings
from tests.support.api_harness import BODY, Api, running_api, until
from tests.support.infrastructure import Infrastructure
from tests.support.relay import Relay, relay
from tests.support.standby import Pair, with_standby
from tests.support.worker_process import Worker, workers

from cli.models.install import bundled_models, install, register
from shared.db.engine import Connection, Database
from shared.errors import InfraUnavailable


@pytest.fixture(scope="module")
def pair(stack: Infrastructure, migrated_url: str) -> Iterator[Pair]:
    with with_standby(stack) as running:
        yield running


def step(api: Api, job: str) -> tuple[object, ...]:
    (row,) = api.sql("SELECT state, attempt, losses FROM steps WHERE job_id = %s", job)
    return row


def has_state(api: Api, job: str, state: str) -> bool:
    return step(api, job)[0] == state


@pytest.mark.slow
def test_services_follow_a_failover_and_nothing_is_lost_or_run_twice(
    stack: Infrastructure, pair: Pair, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    url = pair.url_of_both(stack_environment["DF_DATABASE_URL"])
    models = tmp_path / "models"
    register(url, install(bundled_models()[0], models))
    both = stack_environment | {"DF_DATABASE_URL": url}
    ours = {"DF_DEVICE": "cpu", "DF_DRAIN_S": "0", "DF_MODELS_DIR": str(models)}
    ours |= quick_timings.in_environment(lease_renew_s=0.3, poll_s=0.1)
    quick = {"module": "tests.support.quick_worker"}
    with running_api(both) as api, workers(tmp_path / "w", both | ours, **quick) as start:
        anyio.run(api.ensure_bucket)
        worker: Worker = start()
        file = tmp_path / "go"
        running = api.create(prompt=f"waits_for {file}", seed=1)
        worker.until(lambda: step(api, running)[0] == "running", "it runs")
        waiting = api.create(prompt="quick", seed=1)

        pair.make_primary_read_only()
        key = {"Idempotency-Key": str(uuid4())}
        body = BODY | {"prompt": "quick", "seed": 1}
        refused = api.client.post("/v1/jobs", json=body, headers=key)
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        pair.promote()
        later = ""

        def accepted() -> bool:
            nonlocal later
            answer = api.client.post("/v1/jobs", json=body, headers=key)
            later = answer.json()["job"]["id"] if answer.status_code == 202 else ""
            return bool(later)

        until(accepted, "the api has found the new primary")
        file.touch()
        for job in (running, waiting, later):
            worker.until(partial(has_state, api, job, "succeeded"), f"{job} ends")
            assert step(api, job) == ("succeeded", 1, 0)
            events = api.client.get(f"/v1/jobs/{job}/progress/stream").text
            assert events.count('"job.finish"') == 1
        assert (pair.count(pair.primary, later), pair.count(pair.standby, later)) == (0, 1)


async def write(connection: Connection) -> int:
    await connection.execute(text("SELECT FROM steps WHERE false FOR KEY SHARE"))
    return await port(connection)


async def port(connection: Connection) -> int:
    found: int = (await connection.execute(text("SELECT inet_server_port()"))).scalar_one()
    return found


@pytest.mark.slow
def test_an_address_that_moves_is_followed_by_every_connection_of_the_pool(
    stack: Infrastructure, pair: Pair
) -> None:
    """Also by those that only read: the old server answers them as ever."""
    pair.make_primary_read_only(read_only=False)

    async def work(database: Database, move: Relay) -> None:
        async def at_once() -> set[int]:
            ports: set[int] = set()

            async def look() -> None:
                async def read(connection: Connection) -> int:
                    await connection.execute(text("SELECT pg_sleep(0.1)"))
                    return await port(connection)

                ports.add(await database.transaction(read))

            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(look)
            return ports

        assert await database.transaction(write) == pair.primary[1]
        assert await at_once() == {pair.primary[1]}
        pair.make_primary_read_only()
        move.move(pair.standby)
        with pytest.raises(InfraUnavailable, match="PostgreSQL only reads"):
            await database.probe_write()
        assert await at_once() == {pair.standby[1]}
        assert await database.transaction(write) == pair.standby[1]

    async def main(url: str, moving: Relay) -> None:
        database = Database(url)
        try:
            await work(database, moving)
        finally:
            await database.close()

    with relay(stack.services["DF_DATABASE_URL"]) as (url, moving):
        anyio.run(main, url, moving)
