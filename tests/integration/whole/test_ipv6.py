"""PostgreSQL, broker and store by IPv6 alone: api and worker use them, and a job runs."""

from __future__ import annotations

import hashlib
import socket
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from tests.support.api_harness import running_api
from tests.support.infrastructure import Infrastructure
from tests.support.relay import relay
from tests.support.worker_process import workers

from cli.models.install import bundled_models, install, register
from shared.object_store import open_store
from shared.readiness import wait_for_parts
from shared.settings import Settings

PARTS = ("DF_DATABASE_URL", "DF_REDIS_URL", "DF_S3_ENDPOINT")


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
def test_api_and_worker_use_parts_that_have_ipv6_addresses_alone(
    stack: Infrastructure, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    register(stack_environment["DF_DATABASE_URL"], install(bundled_models()[0], models))
    with ExitStack() as relays:
        both = stack_environment | {
            name: relays.enter_context(relay(stack_environment[name], "::1"))[0] for name in PARTS
        }
        assert all("[::1]" in both[name] for name in PARTS)
        ours = {"DF_DEVICE": "cpu", "DF_DRAIN_S": "0", "DF_MODELS_DIR": str(models)}
        folder = tmp_path / "worker"
        module = "tests.support.quick_worker"
        with running_api(both) as api, workers(folder, both | ours, module=module) as start:
            anyio.run(wait_for_parts, api.settings)
            worker = start()
            worker.wait_ready()
            job = api.create(prompt="quick", seed=1)
            worker.until(lambda: _status(api.client, job) == "succeeded", "the job ends")
            assert api.client.get("/readyz").json()["status"] == "ready"
            sent = 'dreamforge_doorbell_rings_total{outcome="sent"} 1.0'
            worker.until(lambda: sent in api.client.get("/metrics").text, "it was notified")
            anyio.run(_store_and_fetch, api.settings)


def _status(client: httpx.Client, job: str) -> str:
    status: str = client.get(f"/v1/jobs/{job}").json()["status"]
    return status


async def _store_and_fetch(settings: Settings) -> None:
    """An object, by a URL that a client gets."""
    store, data = open_store(settings), b"picture"
    try:
        sha256 = hashlib.sha256(data).hexdigest()
        await store.put("dreamforge/ipv6", data, content_type="image/png", sha256=sha256)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(store.presign("dreamforge/ipv6", 60))
        await store.delete("dreamforge/ipv6")
    finally:
        store.close()
    assert (answer.status_code, answer.content) == (200, data)
