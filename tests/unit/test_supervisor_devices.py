"""Which devices a worker may call its own."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from tests.support.probes import FakeProbe

from shared.startup import NotReady
from supervisor.device_locks import DeviceLocks, OwnedProbe
from supervisor.devices import Device, DeviceLost
from supervisor.locks import FileLock, device_lock


def device(kind: str, id: str) -> Device:
    return Device(id=id, kind=kind, index=0, name="H", total_bytes=1, epsilon_bytes=0)


def test_two_workers_cannot_own_one_gpu(tmp_path: Path) -> None:
    first, second, gpu = DeviceLocks(), DeviceLocks(), device("cuda", "GPU-a")
    first.take(tmp_path, [gpu])
    with pytest.raises(NotReady, match=f"GPU-a belongs to the worker with pid {os.getpid()}"):
        second.take(tmp_path, [gpu])
    second.take(tmp_path, [device("cuda", "GPU-b")])
    first.release()  # the kernel, or a clean end, gives it back
    second.take(tmp_path, [gpu])
    second.release()


def test_two_workers_may_share_a_cpu(tmp_path: Path) -> None:
    for locks in DeviceLocks(), DeviceLocks():
        locks.take(tmp_path, [device("cpu", "cpu-0")])


def test_a_link_in_the_place_of_a_lock_keeps_a_worker_from_starting(tmp_path: Path) -> None:
    device_lock(tmp_path, "GPU-a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotReady, match=r"DF_LOCK_DIR: .*is a symbolic link"):
        DeviceLocks().take(tmp_path, [device("cuda", "GPU-a")])


def test_a_gpu_whose_lock_somebody_else_has_as_well_is_lost_until_it_is_ours_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cpu, gpu = device("cpu", "cpu-0"), device("cuda", "GPU-a")
    locks = DeviceLocks()
    locks.take(tmp_path, [cpu, gpu])
    probe = OwnedProbe(FakeProbe(), locks)
    device_lock(tmp_path, "GPU-a").unlink()
    second = FileLock(device_lock(tmp_path, "GPU-a"))
    locks.touch()
    assert "GPU GPU-a is owned twice" in caplog.text

    async def look() -> None:
        await probe.read(cpu, None)
        with pytest.raises(DeviceLost, match="owned twice"):
            await probe.read(gpu, None)
        second.release()
        locks.touch()
        await probe.read(gpu, None)
        await probe.close()

    anyio.run(look)
    locks.release()
