"""The last checks before GO: memory, ownership, time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import anyio
import pytest
from tests.support.harness import settings_for_tests

from runner import entry
from shared.errors import InfraUnavailable
from shared.states import StepState
from shared.step_store import Claim
from supervisor.devices.device import Device, Reading
from supervisor.execution import fence
from supervisor.execution import start as module
from supervisor.execution.context import Execution, WorkerContext
from supervisor.execution.device_monitor import DeviceMonitor
from supervisor.execution.host_memory import HostMemory
from supervisor.execution.start import commit_running
from supervisor.lifecycle.step import EventKind
from supervisor.metrics import Metrics
from supervisor.processes.tree import ProcessTree
from supervisor.slots.reconciler import SlotReconciler
from supervisor.slots.runner_pool import RunnerPool
from supervisor.slots.table import Slot
from supervisor.templates.places import ModelPlaces

GIB = 1 << 30
GPU = Device(
    id="GPU-a", kind="cuda", index=0, name="", total_bytes=10 * GIB, epsilon_bytes=64 << 20
)
TREE = cast(ProcessTree, SimpleNamespace(known_rss_bytes=lambda: GIB))


class Store:
    """Takes each commit as `answers` says; what was committed is in `committed`."""

    def __init__(self, answers: list[Callable[[], None]]) -> None:
        self._answers = answers
        self.execution: Execution | None = None
        self.committed: list[int] = []

    async def commit_running(self, claim: Claim, events: Any) -> None:
        self.committed.append(events[0].payload["gpu_mem_used_before"])
        if self._answers:
            self._answers.pop(0)()


class Probe:
    """Reads each of these free bytes once, and the last one for ever."""

    def __init__(self, *free: int, host_free: int | None = None) -> None:
        self._free = list(free)
        self._host_free = host_free

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        free = self._free[0] if len(self._free) == 1 else self._free.pop(0)
        total = device.total_bytes
        return Reading(
            total_bytes=total,
            used_bytes=total - free,
            free_bytes=free,
            host_free_bytes=self._host_free,
        )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(fence, "boottime", clock)
    monkeypatch.setattr(module, "DATABASE_RETRY_S", 0.0)
    yield clock


def away() -> None:
    raise InfraUnavailable("PostgreSQL is away")


def commit(
    store: Store,
    *free: int,
    waited_s: float = 0.0,
    device: Device = GPU,
    host_free: int | None = None,
    promised: int = 0,
) -> EventKind | None:
    """Of a step that needs 4 GiB, whose lease was renewed at 95 and is fenced at 135."""
    claim = Claim(
        step_id=uuid4(), job_id=uuid4(), user="default", epoch=1, lease_owner=uuid4(),
        attempt=0, losses=0,
        cancel_requested=False, vram_waited_s=waited_s, name="generate", type="generate",
        params={}, count=1, preset={}, vram_bytes=4 * GIB, timeout_s=60.0, model=None,
        correlation_id="",
    )  # fmt: skip
    worker = SimpleNamespace(
        store=store,
        probe=Probe(*free, host_free=host_free),
        settings=settings_for_tests(vram_wait_s=300.0),
        timings=SimpleNamespace(fence_s=40.0, deadman_s=50.0),
        runners=RunnerPool(
            entry.main, str, Metrics(), standby=False, places=ModelPlaces(lambda: None)
        ),
        host_memory=HostMemory(),
    )
    worker.host_memory.promise("cpu-1", promised, lambda: 0)

    reconciler = cast(SlotReconciler, None)  # no slot is returned before GO

    async def main() -> EventKind | None:
        execution = Execution(claim, Slot(device), cast(WorkerContext, worker), sent=95.0)
        execution.tree = TREE
        store.execution = execution
        execution.step = replace(execution.step, state=StepState.LEASED)
        kind = await commit_running(execution, DeviceMonitor(execution, reconciler))
        execution.close()
        return kind

    return anyio.run(main)


def test_a_step_whose_memory_is_there_runs() -> None:
    store = Store([])
    assert commit(store, 4 * GIB) is EventKind.RUNNING_COMMITTED
    assert store.committed == [6 * GIB]


def test_nothing_is_committed_when_the_memory_is_gone() -> None:
    store = Store([])
    assert commit(store, 4 * GIB - 1) is EventKind.VRAM_BUSY
    assert commit(store, 4 * GIB - 1, waited_s=300.0) is EventKind.VRAM_WAIT_OVER
    assert store.committed == []


def test_memory_is_looked_at_again_after_a_wait_for_the_database() -> None:
    store = Store([away, away])
    assert commit(store, 9 * GIB, 8 * GIB, GIB) is EventKind.VRAM_BUSY
    assert store.committed == [GIB, 2 * GIB]


def test_what_its_own_runner_holds_of_the_hosts_memory_is_the_steps() -> None:
    cpu = Device(id="cpu-0", kind="cpu", index=0, name="", total_bytes=10 * GIB, epsilon_bytes=0)
    assert commit(Store([]), 3 * GIB, device=cpu) is EventKind.RUNNING_COMMITTED
    assert commit(Store([]), 3 * GIB - 1, device=cpu) is EventKind.VRAM_BUSY


@pytest.mark.parametrize(
    ("promised", "said"),
    [(7 * GIB, EventKind.RUNNING_COMMITTED), (7 * GIB + 1, EventKind.VRAM_BUSY)],
)
def test_what_others_were_promised_is_of_the_host_and_not_of_the_slots_share(
    promised: int, said: EventKind
) -> None:
    cpu = Device(id="cpu-0", kind="cpu", index=0, name="", total_bytes=5 * GIB, epsilon_bytes=0)
    found = commit(Store([]), 3 * GIB, device=cpu, host_free=10 * GIB, promised=promised)
    assert found is said


def test_a_step_that_is_stopped_is_not_offered_again() -> None:
    def stop() -> None:
        assert store.execution is not None
        store.execution.step = replace(store.execution.step, state=StepState.STOPPING)
        away()

    store = Store([stop])
    assert commit(store, 9 * GIB) is None
    assert len(store.committed) == 1


def test_a_commit_that_is_answered_past_the_fence_allows_no_go(clock: Clock) -> None:
    def late() -> None:
        clock.now = 135.0

    assert commit(Store([late]), 9 * GIB) is EventKind.LEASE_GONE
