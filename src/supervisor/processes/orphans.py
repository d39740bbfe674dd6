"""Runners that outlived their worker: found by their marker, killed, never adopted.

A runner asks the kernel to kill it when its worker dies, so this finds what got away from that: a
descendant, or a runner that had not come so far. Adopting one is out of the question: its pipe is
broken, its step belongs to somebody else by now, and its memory is in nobody's account.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil

from shared.linux.file_lock import FileLock, LockTaken
from supervisor.processes.tree import marker_of
from supervisor.processes.worker_mark import marked_worker, worker_lock

log = logging.getLogger(__name__)

# SIGKILL needs no cooperation; what is still there after this waits on hardware.
_WAIT_S = 5.0


def kill_orphans(lock_dir: Path) -> list[psutil.Process]:
    """Kill every process that a dead worker of this lock folder left behind.

    Returns those that are alive all the same. What they hold would pass for a foreign process's,
    so no slot may be served before they are gone (`dead`).
    """
    orphans = [process for process, worker in _marked(lock_dir) if not _alive(lock_dir, worker)]
    for process in orphans:
        log.warning("killing orphan %d: its worker is gone", process.pid)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            log.error("orphan %d belongs to another user", process.pid)
    survivors = _still_alive(orphans)
    for process in survivors:
        log.error("orphan %d does not die; no slot is served while it lives", process.pid)
    return survivors


def _still_alive(killed: list[psutil.Process]) -> list[psutil.Process]:
    deadline = time.monotonic() + _WAIT_S
    while left := [process for process in killed if not dead(process)]:
        if time.monotonic() >= deadline:
            return left
        psutil.wait_procs(left, timeout=0.1)
    return []


def dead(process: psutil.Process) -> bool:
    """Gone, or a zombie: it holds nothing, and a container's first process may never collect it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _marked(lock_dir: Path) -> Iterator[tuple[psutil.Process, UUID]]:
    for process in psutil.process_iter():
        marker = marker_of(process.pid)
        worker = None if marker is None else marked_worker(lock_dir, marker)
        if worker is not None and process.pid != os.getpid():
            yield process, worker


def _alive(lock_dir: Path, worker: UUID) -> bool:
    """Whether the worker still holds its lock."""
    path = worker_lock(lock_dir, worker)
    if not path.exists():
        return False
    try:
        FileLock(path).release()  # the file stays, for `died`
    except LockTaken:
        return True
    return False


def died(lock_dir: Path, worker: UUID) -> bool:
    """Whether a worker died for certain: it left a lock here, and the kernel took it from it.

    Asked once: the proof is removed.
    """
    path = worker_lock(lock_dir, worker)
    if not path.exists():
        return False
    try:
        FileLock(path).remove()
    except LockTaken:
        return False
    return True
