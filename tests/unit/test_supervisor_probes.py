"""What every probe must do, fake or real; and what the one over NVML does when NVML fails.

Its helper process is real, only the driver behind it is not: `tests.support.nvml_helpers`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import anyio
import pytest
from tests.support import nvml_helpers, witnesses
from tests.support.probes import FakeProbe, LeakyProbe, SlowProbe

from supervisor import gpu_probe
from supervisor.cpu_probe import CpuProbe
from supervisor.devices import Device, DeviceLost, DeviceProbe
from supervisor.gpu_probe import GpuProbe, MpsRefused
from supervisor.runner_process import Entry
from supervisor.tree import ProcessTree


def nvml(entry: Entry) -> GpuProbe:
    return GpuProbe("test:probe", entry=entry, witness_entry=witnesses.cannot)


def with_probe(probe: DeviceProbe, test: Callable[[DeviceProbe], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await test(probe)
        finally:
            await probe.close()

    anyio.run(main)


MAKERS: list[Callable[[], DeviceProbe]] = [
    lambda: CpuProbe(2),
    lambda: FakeProbe(2),
    lambda: LeakyProbe(2),
    lambda: SlowProbe(2),
    lambda: nvml(nvml_helpers.healthy),
]


@pytest.fixture(params=MAKERS, ids=["cpu", "fake", "leaky", "slow", "nvml"])
def probe(request: pytest.FixtureRequest) -> DeviceProbe:
    made: DeviceProbe = request.param()
    return made


def test_devices_have_ids_of_their_own_and_are_the_same_each_time(probe: DeviceProbe) -> None:
    async def test(probe: DeviceProbe) -> None:
        found = await probe.devices()
        assert len({device.id for device in found}) == len(found) == 2
        assert [device.index for device in found] == [0, 1]
        assert await probe.devices() == found

    with_probe(probe, test)


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
        ourselves.forget()

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
    monkeypatch.setattr(gpu_probe, "CALL_S", 20.0)

    async def test(probe: DeviceProbe) -> None:
        with pytest.raises(DeviceLost, match=words):
            await probe.read(gpu(), None)

    with_probe(nvml(entry), test)


def test_a_helper_that_hangs_is_given_up_and_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_probe, "CALL_S", 0.3)
    probe = nvml(nvml_helpers.hangs)

    async def test(_: DeviceProbe) -> None:
        with anyio.fail_after(20), pytest.raises(DeviceLost, match="did not answer"):
            await probe.read(gpu(), None)
        monkeypatch.setattr(gpu_probe, "CALL_S", 20.0)
        probe._entry = nvml_helpers.healthy
        assert (await probe.read(gpu("GPU-b"), None)).used_bytes == 2 << 30

    with_probe(probe, test)


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
