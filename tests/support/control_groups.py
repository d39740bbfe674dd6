"""Control groups for tests: those of the kernel where this process may make any, and a likeness.

The likeness keeps the kernel's rules that our code must obey: no process in a group that has
controllers below it, no removal of a group with processes, no file of a controller that is not on.
"""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from supervisor.processes.control_groups import MOUNT, OWN, NoGroups, find_base
from supervisor.processes.group_files import GroupFiles, KernelGroups

FAKE_MOUNT = Path("/fake/cgroup")


class FakeGroups:
    """`GroupFiles` in memory. `root` names the files that a container's root has."""

    def __init__(self, *, controllers: str = "cpu memory pids", real_root: bool = False) -> None:
        self.files: dict[Path, dict[str, str]] = {}
        self.procs: dict[int, Path] = {}
        self.delegated: set[Path] = set()
        self.read_only: set[Path] = set()
        self.kills: list[int] = []
        self._add(FAKE_MOUNT, controllers)
        if real_root:
            del self.files[FAKE_MOUNT]["cgroup.type"]

    def _add(self, group: Path, controllers: str) -> None:
        files = {"cgroup.type": "domain", "cgroup.controllers": controllers, "cgroup.kill": ""}
        files |= {"cgroup.procs": "", "cgroup.subtree_control": ""}
        if "memory" in controllers:
            files |= {"memory.max": "max", "memory.oom.group": "0"}
            files["memory.events"] = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n"
        if "pids" in controllers:
            files["pids.max"] = "max"
        self.files[group] = files

    def place(self, group: Path, *pids: int, controllers: bool = True) -> None:
        """A group that a manager made, with processes."""
        for each in reversed([group, *group.parents]):
            if each not in self.files and FAKE_MOUNT in each.parents:
                self._add(each, "cpu memory pids" if controllers else "")
        self.procs |= dict.fromkeys(pids, group)

    # GroupFiles -----------------------------------------------------------------------------------

    def has(self, group: Path, name: str) -> bool:
        return name in self.files.get(group, {})

    def read(self, group: Path, name: str) -> str:
        content = self._file(group, name)
        if name == "cgroup.procs":
            return "".join(f"{pid}\n" for pid, where in self.procs.items() if where == group)
        return content if content.endswith("\n") else f"{content}\n"

    def write(self, group: Path, name: str, text: str) -> None:
        self._file(group, name)
        if group in self.read_only:
            raise _error(errno.EACCES)
        match name:
            case "cgroup.procs":
                if int(text) not in self.procs:
                    raise _error(errno.ESRCH)
                if self.files[group]["cgroup.subtree_control"] and self.has(group, "cgroup.type"):
                    raise _error(errno.EBUSY)
                self.procs[int(text)] = group
            case "cgroup.subtree_control":
                if self.has(group, "cgroup.type") and group in self.procs.values():
                    raise _error(errno.EBUSY)
                wanted = text.replace("+", "")
                if not set(wanted.split()) <= set(self.files[group]["cgroup.controllers"].split()):
                    raise _error(errno.ENOENT)
                self.files[group][name] = wanted
            case "cgroup.kill":
                killed = [
                    pid for pid, where in self.procs.items() if group in (where, *where.parents)
                ]
                self.kills += killed
                for pid in killed:
                    del self.procs[pid]
            case _:
                self.files[group][name] = text

    def make(self, group: Path) -> None:
        if group.parent not in self.files:
            raise _error(errno.ENOENT)
        if group.parent in self.read_only:
            raise _error(errno.EROFS)
        if group not in self.files:
            self._add(group, self.files[group.parent]["cgroup.subtree_control"])

    def remove(self, group: Path) -> None:
        if group not in self.files:
            raise _error(errno.ENOENT)
        if group in self.procs.values() or self.below(group):
            raise _error(errno.EBUSY)
        del self.files[group]

    def below(self, group: Path) -> list[Path]:
        if group not in self.files:
            raise _error(errno.ENOENT)
        return [each for each in self.files if each.parent == group]

    def is_delegated(self, group: Path) -> bool:
        return group in self.delegated

    def is_writable(self, group: Path) -> bool:
        return group not in self.read_only

    def _file(self, group: Path, name: str) -> str:
        if not self.has(group, name):
            raise _error(errno.ENOENT)
        return self.files[group][name]


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class World(Protocol):
    """Where groups are made, and processes to put into them."""

    @property
    def files(self) -> GroupFiles: ...

    own: Path
    mount: Path

    def start(self) -> int: ...


class FakeWorld:
    """A container whose root is ours."""

    def __init__(self, own: Path) -> None:
        self.files = FakeGroups()
        self.own, self.mount = own, FAKE_MOUNT
        self._pids = itertools.count(100)
        own.write_text("0::/\n")
        self.start()

    def start(self) -> int:
        pid = next(self._pids)
        self.files.place(self._where(), pid)
        return pid

    def _where(self) -> Path:
        """A child begins in its parent's group."""
        return next(iter(self.files.procs.values()), FAKE_MOUNT)


class KernelWorld:
    """The kernel's groups, where this process may make any."""

    def __init__(self) -> None:
        self.files = KernelGroups()
        self.own, self.mount = OWN, MOUNT
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self) -> int:
        self.children.append(
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        )
        return self.children[-1].pid

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()


def need_groups() -> None:
    """Skip a test where this process may make no groups."""
    try:
        find_base()
    except NoGroups as error:
        pytest.skip(str(error))


@contextmanager
def world(kind: str, folder: Path) -> Iterator[World]:
    if kind == "fake":
        yield FakeWorld(folder / "own")
        return
    need_groups()
    kernel = KernelWorld()
    try:
        yield kernel
    finally:
        kernel.end()
