"""What every probe must do, fake or real; and what the one over NVML does when NVML fails.

Its helper process is real, only the driver behind it is not: `tests.support.nvml_helpers`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from tests.support import context_holders, nvml_helpers
from tests.support.probes import (
    AbsentProbe,
    FakeProbe,
    HangingProbe,
    LeakyProbe,
    LostProbe,
    SlowProbe,
)

from supervisor.devices import gpu as gpu_probe
from supervisor.devices import nvml_client
from supervisor.devices.cpu import CpuProbe
from supervisor.devices.device import Device, DeviceLost, DeviceProbe, DriverAbsent
from supervisor.devices.discovery import CombinedProbe
from supervisor.devices.gpu import GpuProbe, MpsRefused, survey
from supervisor.devices.ownership import DeviceLocks
from supervisor.processes.child import Entry
from supervisor.processes.spawned import SpawnedProcess
from supervisor.processes.tree import ProcessTree


def nvml(entry: Entry) -> GpuProbe:
    return GpuProbe("test:probe", entry=entry, context_holder_entry=context_holders.cannot)


def with_probe(probe: DeviceProbe, test: Callable[[DeviceProbe], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await test(probe)
        finally:
            await probe.close()

    anyio.run(main)


def hanging() -> DeviceProbe:
    probe = HangingProbe(2)
    probe.hanging.update(("cpu-0", "cpu-1"))
    return probe


SOUND = {
    "cpu": lambda: CpuProbe(2),
    "fake": lambda: FakeProbe(2),
    "leaky": lambda: LeakyProbe(2),
    "slow": lambda: SlowProbe(2),
    "nvml": lambda: nvml(nvml_helpers.healthy),
}
BROKEN = {
    "lost": lambda: LostProbe(2),
    "absent": lambda: AbsentProbe(2),
    "hangs": hanging,
    "nvml-lost": lambda: nvml(nvml_helpers.lost),
    "nvml-hangs": lambda: nvml(nvml_helpers.hangs),
    "nvml-one-hangs": lambda: nvml(nvml_helpers.hangs_for_a),
    "nvml-dies": lambda: nvml(nvml_helpers.dies),
    "nvml-mps": lambda: nvml(nvml_helpers.under_mps),
}
ON_A_GPU = pytest.param(
    lambda: GpuProbe(f"test:{uuid4()}"),
    id="gpu",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(
            not Path("/proc/driver/nvidia/version").exists(),
            reason="no NVIDIA driver on this machine",
        ),
    ],
)


@pytest.fixture(params=[*(pytest.param(make, id=name) for name, make in SOUND.items()), ON_A_GPU])
def probe(request: pytest.FixtureRequest) -> DeviceProbe:
    made: DeviceProbe = request.param()
    return made


@pytest.fixture(
    params=[
        *(pytest.param(make, id=name) for name, make in (SOUND | BROKEN).items()),
        ON_A_GPU,
    ]
)
def any_probe(request: pytest.FixtureRequest) -> DeviceProbe:
    made: DeviceProbe = request.param()
    return made


def test_every_call_ends_within_its_bound_and_says_lost_if_it_must(
    monkeypatch: pytest.MonkeyPatch, any_probe: DeviceProbe
) -> None:
    # Long enough for a helper to start on a machine that is busy.
    monkeypatch.setattr(nvml_client, "START_S", 5.0)
    bound_s = nvml_client.START_S + nvml_client.END_S

    async def test(probe: DeviceProbe) -> None:
        found: list[Device] = []
        with anyio.fail_after(2 * bound_s + gpu_probe.CONTEXT_HOLDER_S), suppress(DeviceLost):
            found = await probe.devices()
        for device in found or [gpu()]:
            with anyio.fail_after(bound_s + 1), suppress(DeviceLost):
                await probe.read(device, None)

    with_probe(any_probe, test)


def test_devices_have_ids_of_their_own_and_are_the_same_each_time(probe: DeviceProbe) -> None:
    async def test(probe: DeviceProbe) -> None:
        found = await probe.devices()
        assert len({device.id for device in found}) == len(found) >= 1
        assert [device.index for device in found] == list(range(len(found)))
        # What a device may differ by, before and after: the contract's numbers (OR-001).
        slack = {"cuda": 64 << 20, "cpu": 0}
        assert all(device.epsilon_bytes == slack[device.kind] for device in found)
        assert await probe.devices() == found

    with_probe(probe, test)


def test_a_gpu_that_is_split_into_nothing_is_left_out_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(probe: DeviceProbe) -> None:
        assert [device.id for device in await probe.devices()] == ["GPU-a"]

    with_probe(nvml(nvml_helpers.split_into_nothing), test)
    assert "GPU 1 is not served: MIG is enabled" in caplog.text


def test_a_gpu_without_a_measure_is_left_out_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(probe: DeviceProbe) -> None:
        assert [device.id for device in await probe.devices()] == ["GPU-a"]

    with_probe(nvml(nvml_helpers.unmeasured), test)
    seen = anyio.run(survey, nvml(nvml_helpers.unmeasured))
    assert [(name, bool(why)) for name, why in seen] == [("shared", True), ("fake GPU", False)]
    assert caplog.text.count("GPU 0 (shared) is not served: nothing could be verified") == 1


def test_auto_serves_the_cpu_where_there_is_no_driver_and_cuda_alone_says_so() -> None:
    async def test(probe: DeviceProbe) -> None:
        assert [device.kind for device in await probe.devices()] == ["cpu"]

    cuda = nvml(nvml_helpers.absent)
    with_probe(CombinedProbe({"cpu": CpuProbe(1), "cuda": cuda}, DeviceLocks()), test)

    async def alone(probe: DeviceProbe) -> None:
        with pytest.raises(DriverAbsent, match="Driver Not Loaded"):
            await probe.devices()

    with_probe(CombinedProbe({"cuda": nvml(nvml_helpers.absent)}, DeviceLocks()), alone)


def test_auto_does_not_pass_over_a_driver_that_fails() -> None:
    async def test(probe: DeviceProbe) -> None:
        with pytest.raises(DeviceLost):
            await probe.devices()

    cuda = nvml(nvml_helpers.lost)
    with_probe(CombinedProbe({"cpu": CpuProbe(1), "cuda": cuda}, DeviceLocks()), test)


def test_a_reading_adds_up(probe: DeviceProbe) -> None:
    async def test(probe: DeviceProbe) -> None:
        for device in await probe.devices():
            now = await probe.read(device, None)
            assert now.total_bytes == device.total_bytes
            assert 0 <= now.used_bytes <= now.total_bytes
            assert 0 <= now.free_bytes <= now.total_bytes - now.used_bytes
            assert sum(now.holders.values()) <= now.used_bytes

    with_probe(probe, test)


def test_a_probe_can_be_closed_twice(probe: DeviceProbe) -> None:
    async def test(probe: DeviceProbe) -> None:
        await probe.devices()
        await probe.close()

    with_probe(probe, test)


def test_the_cpu_counts_the_memory_of_a_tree_and_nothing_without_one() -> None:
    async def test(probe: DeviceProbe) -> None:
        device, _ = await probe.devices()
        assert (await probe.read(device, None)).used_bytes == 0
        ourselves = ProcessTree(os.getpid(), "no such marker")
        assert (await probe.read(device, ourselves)).used_bytes > 1 << 20
        ourselves.unregister()

    with_probe(CpuProbe(2), test)


def test_cpu_slots_share_the_hosts_memory() -> None:
    async def devices(slots: int) -> list[Device]:
        return await CpuProbe(slots).devices()

    (whole,), halves = anyio.run(devices, 1), anyio.run(devices, 2)
    assert [device.total_bytes for device in halves] == [whole.total_bytes // 2] * 2


# NVML ---------------------------------------------------------------------------------------------


def gpu(uuid: str = "GPU-a") -> Device:
    return Device(id=uuid, kind="cuda", index=0, name="fake", total_bytes=1, epsilon_bytes=0)


def test_a_runner_gets_its_gpu_by_uuid() -> None:
    async def test(probe: DeviceProbe) -> None:
        devices = await probe.devices()
        assert [device.environment for device in devices] == [
            {"CUDA_VISIBLE_DEVICES": "GPU-a"},
            {"CUDA_VISIBLE_DEVICES": "GPU-b"},
        ]
        now = await probe.read(devices[1], None)
        assert now.holders == {77: 2 << 30}
        assert now.reserved_bytes == nvml_helpers.RESERVED_BYTES

    with_probe(nvml(nvml_helpers.healthy), test)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (nvml_helpers.lost, "GPU is lost"),
        (nvml_helpers.dies, "helper ended"),
        (nvml_helpers.dies_in_the_middle, "helper ended"),
    ],
)
def test_whatever_is_wrong_with_nvml_the_device_is_lost(
    monkeypatch: pytest.MonkeyPatch, entry: Entry, words: str
) -> None:
    monkeypatch.setattr(nvml_client, "CALL_S", 20.0)

    async def test(probe: DeviceProbe) -> None:
        with pytest.raises(DeviceLost, match=words):
            await probe.read(gpu(), None)

    with_probe(nvml(entry), test)


def test_a_helper_that_hangs_is_given_up_and_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = nvml(nvml_helpers.hangs)

    async def test(_: DeviceProbe) -> None:
        monkeypatch.setattr(nvml_client, "START_S", 0.3)
        with anyio.fail_after(20), pytest.raises(DeviceLost, match="did not answer"):
            await probe.read(gpu(), None)
        monkeypatch.setattr(nvml_client, "START_S", 20.0)
        probe.clients[None].entry = nvml_helpers.healthy
        assert (await probe.read(gpu("GPU-b"), None)).used_bytes == 2 << 30

    with_probe(probe, test)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[SpawnedProcess]:
    """Every helper that is started from now on."""
    started: list[SpawnedProcess] = []

    class Counted(SpawnedProcess):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **keywords)
            started.append(self)

    monkeypatch.setattr(nvml_client, "SpawnedProcess", Counted)
    return started


def test_no_helper_is_started_beside_one_that_does_not_die(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml_client, "START_S", 0.3)
    monkeypatch.setattr(nvml_client, "END_S", 0.2)
    started = counted(monkeypatch)

    async def test(probe: DeviceProbe) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(ProcessTree, "kill", lambda tree: None)  # in the driver, deaf to it
            with pytest.raises(DeviceLost, match="did not answer"):
                await probe.read(gpu(), None)
            for _ in range(3):
                with anyio.fail_after(0.2), pytest.raises(DeviceLost, match="does not die"):
                    await probe.read(gpu(), None)
        (stuck,) = started
        stuck.tree.kill()
        with anyio.fail_after(20):
            await stuck.wait_gone()
        with pytest.raises(DeviceLost, match="did not answer"):
            await probe.read(gpu(), None)
        assert len(started) == 2

    with_probe(nvml(nvml_helpers.hangs), test)


def test_helpers_that_hang_while_gpus_are_counted_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml_client, "START_S", 0.3)
    monkeypatch.setattr(nvml_client, "END_S", 0.2)
    started = counted(monkeypatch)

    async def test(probe: DeviceProbe) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(ProcessTree, "kill", lambda tree: None)  # in the driver, deaf to it
            for words in ("did not answer", "does not die", "does not die"):
                with anyio.fail_after(20), pytest.raises(DeviceLost, match=words):
                    await probe.devices()
        (stuck,) = started
        stuck.tree.kill()
        with anyio.fail_after(20):
            await stuck.wait_gone()

    with_probe(nvml(nvml_helpers.hangs), test)


def test_gpus_can_be_listed_by_several_at_once_and_no_helper_waits_for_a_next_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = nvml(nvml_helpers.healthy)

    async def test(_: DeviceProbe) -> None:
        async with anyio.create_task_group() as tasks:
            for _i in range(3):  # as for several slots that were lost at the start
                tasks.start_soon(probe.devices)
        assert probe.clients[None].helper is None

    with_probe(probe, test)


def test_helpers_that_come_and_go_leave_no_descriptor() -> None:
    probe = nvml(nvml_helpers.dies)

    async def test(_: DeviceProbe) -> None:
        before = 0
        for number in range(20):
            with pytest.raises(DeviceLost):
                await probe.read(gpu(), None)
            if number == 0:  # what is opened once: the resource tracker's pipe
                before = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) == before

    with_probe(probe, test)


def test_a_gpu_that_hangs_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = nvml(nvml_helpers.hangs_for_readings_of_a)

    async def test(_: DeviceProbe) -> None:
        first, second = await probe.devices()
        monkeypatch.setattr(nvml_client, "CALL_S", 3600.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(probe.read, first, None)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(10):
                for _i in range(3):
                    assert (await probe.read(second, None)).used_bytes == 2 << 30
            helper = probe.clients[0].helper
            assert helper is not None
            helper.tree.kill()  # or the shielded question would be waited for

    with pytest.raises(ExceptionGroup) as failed:
        with_probe(probe, test)
    assert failed.group_contains(DeviceLost)


@pytest.mark.parametrize("entry", [nvml_helpers.loses_a, nvml_helpers.hangs_for_a])
def test_a_gpu_that_is_lost_at_start_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, entry: Entry
) -> None:
    monkeypatch.setattr(nvml_client, "START_S", 20.0 if entry is nvml_helpers.loses_a else 4.0)

    async def test(probe: DeviceProbe) -> None:
        first, second = await probe.devices()
        assert first.lost
        assert first.id == ("GPU-a" if entry is nvml_helpers.loses_a else "gpu-0")
        assert (second.id, second.lost, second.index) == ("GPU-b", "", 1)
        await probe.read(second, None)
        with pytest.raises(DeviceLost):
            await probe.read(first, None)

    with_probe(nvml(entry), test)


def test_a_step_can_have_what_the_driver_does_not_keep() -> None:
    async def test(probe: DeviceProbe) -> None:
        for device in await probe.devices():
            assert device.capacity_bytes == device.total_bytes - nvml_helpers.RESERVED_BYTES
            assert (await probe.read(device, None)).free_bytes <= device.capacity_bytes

    with_probe(nvml(nvml_helpers.healthy), test)


def test_the_answer_to_a_question_that_was_given_up_is_not_taken_for_the_next_ones() -> None:
    async def test(probe: DeviceProbe) -> None:
        await probe.read(gpu("GPU-b"), None)  # the helper is up
        with anyio.move_on_after(0.05):
            await probe.read(gpu("GPU-a"), None)
        assert (await probe.read(gpu("GPU-b"), None)).used_bytes == 2 << 30

    with_probe(nvml(nvml_helpers.slow_for_a), test)


def test_a_gpu_under_mps_is_refused_with_a_reason() -> None:
    async def test(probe: DeviceProbe) -> None:
        with pytest.raises(MpsRefused, match="nvidia-cuda-mps-control"):
            await probe.devices()

    with_probe(nvml(nvml_helpers.under_mps), test)


def test_a_daemon_of_mps_without_a_client_is_refused_when_it_has_one() -> None:
    async def test(probe: DeviceProbe) -> None:
        with pytest.raises(MpsRefused, match="nvidia-cuda-mps-control"):
            await probe.devices()

    with_probe(
        GpuProbe(
            "test:probe", entry=nvml_helpers.idle_mps, context_holder_entry=context_holders.unseen
        ),
        test,
    )
