"""Which devices a worker may call its own."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.support.probes import FakeProbe

from shared.linux.file_lock import FileLock
from shared.linux.proc import lists_children
from shared.readiness import NotReady
from supervisor import worker
from supervisor.devices.device import Device, DeviceLost
from supervisor.devices.discovery import CombinedProbe, find_devices
from supervisor.devices.ownership import DeviceLocks, device_lock
from supervisor.worker import check_kernel


def device(kind: str, id: str) -> Device:
    return Device(id=id, kind=kind, index=0, name="H", total_bytes=1, epsilon_bytes=0)


def test_a_worker_says_what_each_gpu_has_in_use_at_its_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class TwoGpus(FakeProbe):
        async def devices(self) -> list[Device]:
            return [
                device("cpu", "cpu-0"),
                device("cuda", "GPU-a"),
                device("cuda", "GPU-b"),
                replace(device("cuda", "GPU-c"), lost="off the bus"),
            ]

    probe = TwoGpus()
    probe.foreign["GPU-a"] = 12345
    probe.lost.add("GPU-b")
    caplog.set_level(logging.INFO)
    assert len(anyio.run(find_devices, probe)) == 4
    said = [line.partition(";")[0] for line in caplog.messages]
    assert sorted(said) == [
        "GPU GPU-a: 12345 of 1 bytes are in use at the start, by processes {1: 12345}",
        "GPU GPU-b is lost: GPU-b is lost",
        "GPU GPU-c is lost: off the bus",
    ]


def test_a_kernel_that_lists_no_children_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_kernel()
    assert not lists_children(tmp_path)
    monkeypatch.setattr(worker, "lists_children", lambda: False)
    with pytest.raises(NotReady, match="CONFIG_PROC_CHILDREN"):
        check_kernel()


def test_two_workers_cannot_own_one_gpu(tmp_path: Path) -> None:
    first, second, gpu = DeviceLocks(), DeviceLocks(), device("cuda", "GPU-a")
    first.acquire(tmp_path, [gpu])
    with pytest.raises(NotReady, match=f"GPU-a belongs to the worker with pid {os.getpid()}"):
        second.acquire(tmp_path, [gpu])
    second.acquire(tmp_path, [device("cuda", "GPU-b")])
    first.release()  # the kernel, or a clean end, gives it back
    second.acquire(tmp_path, [gpu])
    second.release()


def test_two_workers_may_share_a_cpu(tmp_path: Path) -> None:
    for locks in DeviceLocks(), DeviceLocks():
        locks.acquire(tmp_path, [device("cpu", "cpu-0")])


def test_a_link_in_the_place_of_a_lock_keeps_a_worker_from_starting(tmp_path: Path) -> None:
    device_lock(tmp_path, "GPU-a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotReady, match=r"DF_LOCK_DIR: .*is a symbolic link"):
        DeviceLocks().acquire(tmp_path, [device("cuda", "GPU-a")])


def test_a_gpu_whose_lock_somebody_else_has_as_well_is_lost_until_it_is_ours_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cpu, gpu = device("cpu", "cpu-0"), device("cuda", "GPU-a")
    locks = DeviceLocks()
    locks.acquire(tmp_path, [cpu, gpu])
    probe = CombinedProbe({"cpu": FakeProbe(), "cuda": FakeProbe()}, locks)
    device_lock(tmp_path, "GPU-a").unlink()
    second = FileLock(device_lock(tmp_path, "GPU-a"))
    locks.refresh()
    assert "GPU GPU-a is owned twice" in caplog.text

    async def look() -> None:
        await probe.read(cpu, None)
        with pytest.raises(DeviceLost, match="owned twice"):
            await probe.read(gpu, None)
        second.release()
        locks.refresh()
        await probe.read(gpu, None)
        await probe.close()

    anyio.run(look)
    locks.release()
