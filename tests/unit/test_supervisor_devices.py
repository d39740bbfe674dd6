"""Which devices a worker may call its own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.harness import settings_for_tests

from shared.startup import NotReady
from supervisor.devices import Device
from supervisor.worker import lock_devices


def device(kind: str, id: str) -> Device:
    return Device(id=id, kind=kind, index=0, name="H", total_bytes=1, epsilon_bytes=0)


def test_two_workers_cannot_own_one_gpu(tmp_path: Path) -> None:
    settings, gpu = settings_for_tests(lock_dir=tmp_path), device("cuda", "GPU-a")
    with ExitStack() as first, ExitStack() as second:
        lock_devices(settings, [gpu], first)
        with pytest.raises(NotReady, match=f"GPU-a belongs to the worker with pid {os.getpid()}"):
            lock_devices(settings, [gpu], second)
        lock_devices(settings, [device("cuda", "GPU-b")], second)
    with ExitStack() as third:  # the kernel, or a clean end, gives it back
        lock_devices(settings, [gpu], third)


def test_two_workers_may_share_a_cpu(tmp_path: Path) -> None:
    settings = settings_for_tests(lock_dir=tmp_path)
    with ExitStack() as first, ExitStack() as second:
        lock_devices(settings, [device("cpu", "cpu-0")], first)
        lock_devices(settings, [device("cpu", "cpu-0")], second)
