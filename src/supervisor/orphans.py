"""Runners that outlived their worker: found by their marker, killed, never adopted.

A runner asks the kernel to kill it when its worker dies, so this finds what got away from that: a
descendant, or a runner that had not come so far. Adopting one is out of the question: its pipe is
broken, its step belongs to somebody else by now, and its memory is in nobody's account.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil

from supervisor.locks import FileLock, LockTaken, worker_lock
from supervisor.tree import marker_of

log = logging.getLogger(__name__)

# SIGKILL needs no cooperation; what is still there after this waits on hardware.
_WAIT_S = 5.0


def kill_orphans(lock_dir: Path) -> list[int]:
    """Kill every marked process whose worker is gone; return their pids."""
    orphans = [process for process, worker in _marked() if not _alive(lock_dir, worker)]
    for process in orphans:
        log.warning("killing orphan %d: its worker is gone", process.pid)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            log.error("orphan %d belongs to another user", process.pid)
    _, left = psutil.wait_procs(orphans, timeout=_WAIT_S)
    for process in left:
        log.error("orphan %d does not die; its device will not verify", process.pid)
    return [process.pid for process in orphans]


def _marked() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        if process.pid != os.getpid() and (marker := marker_of(process.pid)) is not None:
            yield process, marker.partition(":")[0]


def _alive(lock_dir: Path, worker: str) -> bool:
    """Whether the worker named by a marker still holds its lock."""
    try:
        path = worker_lock(lock_dir, UUID(worker))
    except ValueError:
        return False  # no worker of ours writes such a marker
    if not path.exists():
        return False
    try:
        FileLock(path).remove()
    except LockTaken:
        return True
    return False
