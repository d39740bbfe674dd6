"""The files of the kernel's control groups, version 2."""

import errno
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class GroupFiles(Protocol):
    """The files of control groups. Every method raises `OSError` as the kernel does."""

    def has(self, group: Path, name: str) -> bool: ...
    def read(self, group: Path, name: str) -> str: ...
    def write(self, group: Path, name: str, text: str) -> None: ...
    def make(self, group: Path) -> None: ...
    def remove(self, group: Path) -> None: ...
    def below(self, group: Path) -> list[Path]: ...

    def is_delegated(self, group: Path) -> bool:
        """Whether the manager of groups says that all below this one is ours."""

    def is_writable(self, group: Path) -> bool:
        """Whether this process may make groups in it and move processes."""


class KernelGroups:
    """`GroupFiles` of the kernel."""

    def has(self, group: Path, name: str) -> bool:
        return (group / name).exists()

    def read(self, group: Path, name: str) -> str:
        return (group / name).read_text(encoding="ascii")

    def write(self, group: Path, name: str, text: str) -> None:
        # One write of a file that is there: the kernel takes each for an order.
        fd = os.open(group / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def make(self, group: Path) -> None:
        group.mkdir(exist_ok=True)

    def remove(self, group: Path) -> None:
        group.rmdir()

    def below(self, group: Path) -> list[Path]:
        return [path for path in group.iterdir() if path.is_dir()]

    def is_delegated(self, group: Path) -> bool:
        """systemd marks it; older ones show it to root only, but change the owner for others."""
        for name in ("user.delegate", "trusted.delegate"):
            with suppress(OSError):  # none, or not for us to read
                return os.getxattr(group, name) == b"1"
        own = os.geteuid()
        return own != 0 and group.stat().st_uid == own != group.parent.stat().st_uid

    def is_writable(self, group: Path) -> bool:
        files = (group, group / "cgroup.procs", group / "cgroup.subtree_control")
        return all(os.access(path, os.W_OK) for path in files)


def kill_all(files: GroupFiles, group: Path) -> None:
    """SIGKILL to every process in it, however fast they fork."""
    with suppress(OSError):  # removed already, or a kernel before 5.14
        files.write(group, "cgroup.kill", "1")
        return
    for pid in pids_of(files, group):
        if pid > 0:  # 0 would be our own group
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def pids_of(files: GroupFiles, group: Path) -> list[int]:
    """Every process in it; none when it was removed. 0 is one that is not seen from here."""
    try:
        return [int(pid) for pid in files.read(group, "cgroup.procs").split()]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # it was removed
            return []
        raise
