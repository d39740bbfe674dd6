"""Which worker a process belongs to: the lock of each worker, and the marker of its processes.

A marker stands in the environment of each process that a worker starts, and names the worker. A
marked process whose worker's lock is free is an orphan.
"""

import hashlib
from pathlib import Path
from uuid import UUID

from shared.linux.child import MARKER
from shared.linux.proc import environment_value


def worker_lock(folder: Path, worker_id: UUID) -> Path:
    return folder / f"worker-{worker_id}.lock"


def worker_mark(folder: Path, worker_id: UUID) -> str:
    """What the markers of all of a worker's processes begin with.

    It names the lock folder too. A worker with another folder cannot see whether this worker
    lives, so it must leave this worker's processes alone.
    """
    return f"{_tag(folder)}:{worker_id}"


def marked_worker(folder: Path, marker: str) -> UUID | None:
    """The worker that a marker names; None when it uses another lock folder."""
    tag, _, rest = marker.partition(":")
    try:
        return UUID(rest.partition(":")[0]) if tag == _tag(folder) else None
    except ValueError:
        return None


def marker_of(pid: int) -> str | None:
    """The marker of a process; None without one, or where its environment cannot be read."""
    try:
        return environment_value(pid, MARKER)
    except OSError:
        return None


def _tag(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
