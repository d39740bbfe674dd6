"""Two locks of a worker, both released by the kernel when the process ends, however it ends.

* One per GPU: two workers must not own one device. Keyed by UUID, in a folder that every worker of
  the host uses.
* One per worker instance: a runner's marker names its worker, and a marked process whose worker's
  lock is free is an orphan.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from pathlib import Path
from uuid import UUID

log = logging.getLogger(__name__)


class LockTaken(Exception):
    """Somebody else holds it; `holder` is the pid that the file names."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


class FileLock:
    """An exclusive `flock`. Close-on-exec, so no child keeps it alive."""

    def __init__(self, path: Path) -> None:
        _shared_folder(path.parent)
        self._fd = _open(path)
        self._path = path
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode().strip() or "?"
            os.close(self._fd)
            raise LockTaken(path, holder) from None
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        except OSError:
            log.info("%s belongs to another user: the lock holds, our pid is not in it", path)

    def touch(self) -> None:
        """Show whoever clears away old files that this one is in use.

        A lock whose file is gone is nobody's: the next worker would make another file, and own a
        device that is ours.
        """
        try:
            os.utime(self._fd)
        except PermissionError:
            log.debug("%s belongs to another user, who is to keep it", self._path)

    def release(self) -> None:
        """Let go. The file stays: whoever opened it by now must lock the same one as the next."""
        os.close(self._fd)

    def remove(self) -> None:
        """Let go of a lock whose name nobody will use again."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _shared_folder(folder: Path) -> None:
    """Make the folder as /tmp is: workers of several users must see one another's locks."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o1777)


def _open(path: Path) -> int:
    """Open for locking; read-only will do where another user made the file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


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


def device_lock(folder: Path, device_id: str) -> Path:
    return folder / f"device-{device_id}.lock"
