"""Two locks of a worker, both released by the kernel when the process ends, however it ends.

* One per GPU: two workers must not own one device. Keyed by UUID, in a folder that every worker of
  the host uses.
* One per worker instance: a runner's marker names its worker, and a marked process whose worker's
  lock is free is an orphan.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from uuid import UUID


class LockTaken(Exception):
    """Somebody else holds it; `holder` is the pid that the file names."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


class FileLock:
    """An exclusive `flock`. Close-on-exec, so no child keeps it alive."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._path = path
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode().strip() or "?"
            os.close(self._fd)
            raise LockTaken(path, holder) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: whoever opened it by now must lock the same one as the next."""
        os.close(self._fd)

    def remove(self) -> None:
        """Let go of a lock whose name nobody will use again."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def worker_lock(folder: Path, worker_id: UUID) -> Path:
    return folder / f"worker-{worker_id}.lock"


def device_lock(folder: Path, device_id: str) -> Path:
    return folder / f"device-{device_id}.lock"
