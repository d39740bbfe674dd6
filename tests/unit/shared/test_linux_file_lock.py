"""A lock on a file: one holder, as long as it lives."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.linux.file_lock import (
    FileLock,
    LockTaken,
    LockUnusable,
)

HOLDER = """
import sys, time, pathlib
from shared.linux.file_lock import FileLock
lock = FileLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_the_file_of_a_lock_in_use_stays_young(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "GPU-a.lock"
    lock = FileLock(path)
    os.utime(path, (0, 0))
    lock.refresh()
    assert time.time() - path.stat().st_mtime < 60
    assert time.time() - path.stat().st_atime < 60
    lock.release()


def test_a_lock_whose_file_was_cleared_away_is_taken_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "locks" / "GPU-a.lock"
    lock = FileLock(path)
    path.unlink()
    lock.refresh()
    assert "GPU-a.lock was removed while it was in use" in caplog.text
    with pytest.raises(LockTaken, match=str(os.getpid())):
        FileLock(path)
    lock.release()
    FileLock(path).release()


def test_the_owner_of_a_lock_that_was_replaced_is_told_until_it_has_it_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "locks" / "GPU-a.lock"
    lock = FileLock(path)
    path.unlink()
    second = FileLock(path)
    for _ in range(2):
        with pytest.raises(LockTaken):
            lock.refresh()
    second.release()
    lock.refresh()
    with pytest.raises(LockTaken):
        FileLock(path)
    lock.release()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["utime", "lstat"])
def test_a_file_system_that_fails_does_not_end_the_owner(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    call: str,
    number: int,
) -> None:
    lock = FileLock(tmp_path / "GPU-a.lock")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        lock.refresh()
    assert os.strerror(number) in caplog.text
    lock.release()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path = tmp_path / "GPU-a.lock"
    path.symlink_to(precious)
    with pytest.raises(LockUnusable, match=r"GPU-a\.lock: is a symbolic link"):
        FileLock(path)
    assert precious.read_text() == "precious"


def test_a_device_belongs_to_one_worker_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "GPU-a.lock"
    first = FileLock(path)
    with pytest.raises(LockTaken, match=str(os.getpid())):
        FileLock(path)
    FileLock(tmp_path / "locks" / "GPU-b.lock").release()
    first.release()
    FileLock(path).release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "GPU-a.lock"
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
    path = tmp_path / "worker.lock"
    FileLock(path).remove()
    assert not path.exists()


def test_a_lock_that_stays_can_be_opened_by_others_whatever_the_umask_is(tmp_path: Path) -> None:
    """Else a worker that ran once under umask 077 would keep a GPU from all other users."""
    path = tmp_path / "locks" / "GPU-a.lock"
    before = os.umask(0o077)
    try:
        FileLock(path).release()
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)  # as an earlier release left it
        FileLock(path).release()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
