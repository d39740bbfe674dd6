"""One worker per GPU, and a marker that says whose a process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from supervisor.locks import (
    FileLock,
    LockTaken,
    device_lock,
    marked_worker,
    worker_lock,
    worker_mark,
)

HOLDER = """
import sys, time, pathlib
from supervisor.locks import FileLock
lock = FileLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_the_file_of_a_lock_in_use_stays_young(tmp_path: Path) -> None:
    path = device_lock(tmp_path / "locks", "GPU-a")
    lock = FileLock(path)
    os.utime(path, (0, 0))
    lock.touch()
    assert time.time() - path.stat().st_mtime < 60
    assert time.time() - path.stat().st_atime < 60
    lock.release()


def test_a_device_belongs_to_one_worker_at_a_time(tmp_path: Path) -> None:
    path = device_lock(tmp_path / "locks", "GPU-a")
    first = FileLock(path)
    with pytest.raises(LockTaken, match=str(os.getpid())):
        FileLock(path)
    FileLock(device_lock(tmp_path / "locks", "GPU-b")).release()
    first.release()
    FileLock(path).release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = device_lock(tmp_path, "GPU-a")
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockTaken, match=str(holder.pid)):
            FileLock(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    FileLock(path).release()


def test_a_removed_lock_leaves_no_file(tmp_path: Path) -> None:
    path = worker_lock(tmp_path, uuid4())
    FileLock(path).remove()
    assert not path.exists()


def test_a_marker_names_its_worker_to_those_who_can_see_its_lock(tmp_path: Path) -> None:
    worker = uuid4()
    marker = f"{worker_mark(tmp_path, worker)}:7"
    assert marked_worker(tmp_path, marker) == worker
    assert marked_worker(tmp_path / "elsewhere", marker) is None
    for other in ("", "x", f"{worker_mark(tmp_path, worker)[:12]}:no-uuid:7"):
        assert marked_worker(tmp_path, other) is None
