"""An exclusive lock on a file, released by the kernel when the process ends, however it ends.

The lock belongs to a file, not to its name. When another process removes the file, or replaces it,
the next worker locks the new one: then there are two owners, and neither knows. So the owner checks
with every refresh that its file is still under its name. If not, it locks the name again, or
reports who has it.
"""

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


class LockTaken(Exception):
    """Another process holds it; `holder` is the pid that the file names."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


class LockUnusable(Exception):
    """The file cannot be made, opened or locked."""


class FileLock:
    """An exclusive `flock`. Close-on-exec, so no child keeps it alive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _locked(path)

    def refresh(self) -> None:
        """Set the file's times, as hosts delete old files of /tmp, and check that it is there.

        Raises `LockTaken` when another process has locked the file that replaced it.
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
        """Lock the new file before the old is released: another process may have opened that."""
        fd = _locked(self._path)
        os.close(self._fd)
        self._fd = fd
        log.error("%s was removed while it was in use; it was made and locked again", self._path)

    def release(self) -> None:
        """Release the lock. The file stays: a process that has opened it must lock this one."""
        os.close(self._fd)

    def remove(self) -> None:
        """Release a lock whose name is not used again, and remove its file."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _locked(path: Path) -> int:
    """Open or make the file and lock it; return its descriptor."""
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
    """Make the folder as /tmp is: workers of several users must see each other's locks."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o1777)


def _open(path: Path) -> int:
    """Open for locking; read-only is enough where another user made the file.

    Links are not followed: every user can put one into a shared folder, and the file that it leads
    to would be overwritten with our pid.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        return os.open(path, flags | os.O_RDONLY)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        os.fchmod(fd, 0o644)  # whatever the umask is: it stays, and others must open it
    return fd
