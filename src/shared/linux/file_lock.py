"""A lock on a file, released by the kernel when the process ends, however it ends.

A lock is a file's. Whoever removes the file, or puts another one in its place, lets the next
worker lock that one: two owners, and neither was told. So the owner looks with every touch whether
its file is still where its name says, and takes the name again, or says that somebody else has it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class LockTaken(Exception):
    """Somebody else holds it; `holder` is the pid that the file names."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


class LockUnusable(Exception):
    """The file cannot be made or opened, or is none of ours."""


class FileLock:
    """An exclusive `flock`. Close-on-exec, so no child keeps it alive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _locked(path)

    def refresh(self) -> None:
        """Show whoever clears away old files that this one is in use, and look that it is there.

        Raises `LockTaken` when another process has locked the file that took its place.
        """
        try:
            if not self._in_place():
                self._lock_again()
        except (OSError, LockUnusable) as error:
            log.error("%s was removed and protects nothing: %s", self._path, error)
            return
        try:
            os.utime(self._fd)
        except PermissionError:
            log.debug("%s belongs to another user, who is to keep it", self._path)
        except OSError as error:
            log.error("%s cannot be kept young: %s", self._path, error)

    def _in_place(self) -> bool:
        ours = os.fstat(self._fd)
        try:
            named = os.lstat(self._path)
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)

    def _lock_again(self) -> None:
        """The old file stays locked until the new one is: who opened that one must not pass."""
        fd = _locked(self._path)
        os.close(self._fd)
        self._fd = fd
        log.error("%s was removed while it was in use; it was made and locked again", self._path)

    def release(self) -> None:
        """Let go. The file stays: whoever opened it by now must lock the same one as the next."""
        os.close(self._fd)

    def remove(self) -> None:
        """Let go of a lock whose name nobody will use again."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _locked(path: Path) -> int:
    """Open the file, made if need be, and lock it; its descriptor."""
    try:
        _shared_folder(path.parent)
        fd = _open(path)
    except OSError as error:
        what = "is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise LockUnusable(f"{path}: {what}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise LockTaken(path, holder) from None
        raise LockUnusable(f"{path}: {error.strerror}") from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    except OSError:
        log.info("%s belongs to another user: the lock holds, our pid is not in it", path)
    return fd


def _shared_folder(folder: Path) -> None:
    """Make the folder as /tmp is: workers of several users must see one another's locks."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o1777)


def _open(path: Path) -> int:
    """Open for locking; read-only will do where another user made the file.

    In a folder that anybody can write to a link may lead to a file of ours, which would lose what
    is in it to our pid, so none is followed.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        return os.open(path, flags | os.O_RDONLY)
