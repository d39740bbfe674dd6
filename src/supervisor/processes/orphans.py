"""Runners that outlived their worker: found by their marker and killed.

The kernel kills a runner when its worker dies, so these are the exceptions: a descendant, or a
runner that had not yet asked the kernel for that. No worker adopts one: its pipe is broken, its
step belongs to another worker by now, and nothing counts its memory.
"""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil

from shared.linux.file_lock import FileLock, LockTaken
from supervisor.processes.tree import is_alive
from supervisor.processes.worker_mark import marked_worker, marker_of, worker_lock

log = logging.getLogger(__name__)

# SIGKILL needs no cooperation; what is still there after this waits on hardware.
WAIT_S = 5.0


def kill_orphans(lock_dir: Path) -> list[psutil.Process]:
    """Kill every process that a dead worker of this lock folder left; return those that survive.

    The memory of a survivor would pass for a foreign process's, so no slot is served while one of
    them is alive.
    """
    orphans = [
        process for process, worker in _marked(lock_dir) if not worker_lives(lock_dir, worker)
    ]
    for process in orphans:
        log.warning("killing orphan %d: its worker is gone", process.pid)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            log.error("orphan %d belongs to another user", process.pid)
    survivors = _wait_gone(orphans)
    for process in survivors:
        log.error("orphan %d does not die; no slot is served while it lives", process.pid)
    return survivors


def _wait_gone(killed: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until all have ended, at most `WAIT_S`; return those that have not."""
    deadline = time.monotonic() + WAIT_S
    while alive := [process for process in killed if is_alive(process)]:
        if time.monotonic() >= deadline:
            return alive
        psutil.wait_procs(alive, timeout=0.1)
    return []


def _marked(lock_dir: Path) -> Iterator[tuple[psutil.Process, UUID]]:
    for process in psutil.process_iter():
        marker = marker_of(process.pid)
        worker = None if marker is None else marked_worker(lock_dir, marker)
        if worker is not None and process.pid != os.getpid():
            yield process, worker


def worker_lives(lock_dir: Path, worker: UUID) -> bool:
    lock = _take_free_lock(lock_dir, worker)
    if lock is None:
        return worker_lock(lock_dir, worker).exists()
    lock.release()  # the file stays, for `remove_dead_lock`
    return False


def remove_dead_lock(lock_dir: Path, worker: UUID) -> bool:
    """Remove the lock of a worker that has died; False when it lives, or left no lock here.

    True proves that the worker is dead: the kernel released the lock. The next call finds none.
    """
    lock = _take_free_lock(lock_dir, worker)
    if lock is None:
        return False
    lock.remove()
    return True


def _take_free_lock(lock_dir: Path, worker: UUID) -> FileLock | None:
    """The lock that a dead worker left; None when the worker holds it, or there is no file."""
    path = worker_lock(lock_dir, worker)
    try:
        return FileLock(path) if path.exists() else None
    except LockTaken:
        return None
