"""The worker's door: who may knock, and from which address it is refused at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import anyio
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from tests.support.harness import settings_for_tests

from shared.auth import parse_api_keys
from shared.readiness import NotReady
from supervisor import health
from supervisor.devices.device import Device
from supervisor.metrics import Metrics
from supervisor.slots.table import SlotTable
from supervisor.worker import check_port

KEYS = parse_api_keys(f"ops:{hashlib.sha256(b'k-ops').hexdigest()}")


def get(
    path: str,
    *,
    keys: bool,
    headers: Mapping[str, str] | None = None,
    devices: Sequence[Device] = (),
) -> httpx.Response:
    async def main() -> httpx.Response:
        state = health.Health(
            metrics=Metrics(),
            slots=SlotTable(list(devices)),
            checks={},
            draining=lambda: False,
            keys=KEYS if keys else (),
        )
        transport = httpx.ASGITransport(health.create_app(state))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await client.get(path, headers=headers)

    return anyio.run(main)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer k-other"}, {"Authorization": "Basic k-ops"}]
)
def test_metrics_want_a_key_where_others_can_reach_them(headers: dict[str, str]) -> None:
    answer = get("/metrics", keys=True, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "dreamforge_" not in answer.text


def test_metrics_open_to_a_known_key() -> None:
    answer = get("/metrics", keys=True, headers={"Authorization": "Bearer k-ops"})
    assert answer.status_code == 200
    assert "dreamforge_claims_total" in answer.text


def test_metrics_on_a_loopback_address_are_open() -> None:
    assert get("/metrics", keys=False).status_code == 200


def test_probes_stay_open() -> None:
    assert get("/healthz", keys=True).status_code == 200
    assert get("/readyz", keys=True).status_code == 503  # it has no slot, and may say so


def test_readyz_tells_what_is_known_of_process_ids_on_a_gpu() -> None:
    found = "NVML lists 3 processes and not ours, which holds a context"
    gpu = Device(
        id="GPU-a", kind="cuda", index=0, name="fake", total_bytes=1, epsilon_bytes=0,
        pid_namespace_shared=False, pid_check_result=found,
    )  # fmt: skip
    answer = get("/readyz", keys=False, devices=[gpu])
    assert answer.json()["process_ids"] == {"GPU-a": found}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_without_keys_a_worker_does_not_listen_to_the_network(host: str) -> None:
    with pytest.raises(NotReady, match="DF_API_KEYS"):
        check_port(settings_for_tests(worker_host=host, worker_port=0))


def test_with_keys_a_worker_may_listen_to_the_network() -> None:
    check_port(settings_for_tests(worker_host="0.0.0.0", worker_port=0, api_keys=KEYS))


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost"])
def test_a_worker_may_listen_on_a_loopback_address_of_either_family(host: str) -> None:
    check_port(settings_for_tests(worker_host=host, worker_port=0))


def test_idle_connections_live_longer_than_proxies_keep_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scraper or a probe behind nginx, which keeps its own for 60 to 75 s."""
    served: list[uvicorn.Server] = []

    async def serve(self: uvicorn.Server) -> None:
        served.append(self)

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    anyio.run(health.serve, Starlette(), "127.0.0.1", 0)
    assert served[0].config.timeout_keep_alive > 75
