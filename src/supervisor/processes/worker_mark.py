"""One lock per worker instance, and the marker that each of its processes bears.

A runner's marker names its worker, and a marked process whose worker's lock is free is an orphan.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID


def worker_lock(folder: Path, worker_id: UUID) -> Path:
    return folder / f"worker-{worker_id}.lock"


def worker_mark(folder: Path, worker_id: UUID) -> str:
    """What the marker of each of a worker's processes begins with.

    It names the lock folder too: a worker that looks into another folder cannot tell whether this
    one lives, so it must leave its processes alone.
    """
    return f"{_tag(folder)}:{worker_id}"


def marked_worker(folder: Path, marker: str) -> UUID | None:
    """The worker that a marker names, None when it is not one of this lock folder's."""
    tag, _, rest = marker.partition(":")
    try:
        return UUID(rest.partition(":")[0]) if tag == _tag(folder) else None
    except ValueError:
        return None


def _tag(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
