"""Processes by identity, not by number: a pid is only trusted together with its start time.

A pid alone may belong to somebody else by the time that we look again. `Proc` adds the start time
in clock ticks since boot, which the kernel never changes, and every signal goes through a pidfd
that was opened before that pair was compared. So a recycled pid is never signalled.
A zombie counts as gone: it holds no memory, no port and no file.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.02
# After SIGKILL only the kernel is at work; a process in an uninterruptible read may take a while.
KILL_DEADLINE_S = 10.0


class Proc(NamedTuple):
    pid: int
    start_ticks: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """Fields of `/proc/<pid>/stat` after the name, which may itself hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def identify(pid: int) -> Proc | None:
    """`pid` with its start time, or None when it is gone or a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return Proc(pid, int(fields[19]))


def alive(proc: Proc) -> bool:
    return identify(proc.pid) == proc


def family(root: int) -> set[Proc]:
    """The process and all its descendants. Take it *before* a kill: orphans are found no more."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found, todo = set(), [root]
    while todo:
        pid = todo.pop()
        todo.extend(children.get(pid, []))
        found.add(identify(pid))
    return {proc for proc in found if proc is not None}


def environ_value(pid: int, name: str) -> str | None:
    """One variable of another process. Raises PermissionError where the kernel hides it."""
    try:
        block = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    prefix = os.fsencode(name) + b"="
    for entry in block.split(b"\0"):
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None


def with_environ(name: str, value: str) -> set[Proc]:
    """Every living process, ourselves excepted, that carries `name=value` and lets us see it."""
    found = set()
    for pid in _pids():
        try:
            if pid != os.getpid() and environ_value(pid, name) == value:
                found.add(identify(pid))
        except PermissionError:
            continue
    return {proc for proc in found if proc is not None}


def send(proc: Proc, what: signal.Signals) -> None:
    """Signal exactly this process; nothing happens when it is gone."""
    try:
        fd = os.pidfd_open(proc.pid)
    except ProcessLookupError:
        return
    try:
        if alive(proc):
            signal.pidfd_send_signal(fd, what)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def wait_gone(
    procs: Iterable[Proc], timeout_s: float, skip_grace: Callable[[], bool] = lambda: False
) -> set[Proc]:
    """Wait until all are gone, the time is over or `skip_grace` says so; returns what is left."""
    deadline = time.monotonic() + timeout_s
    left = {proc for proc in procs if alive(proc)}
    while left and time.monotonic() < deadline and not skip_grace():
        time.sleep(POLL_S)
        left = {proc for proc in left if alive(proc)}
    return left


def kill(procs: Iterable[Proc]) -> set[Proc]:
    """SIGKILL all of them and wait; returns who survived the deadline."""
    doomed = set(procs)
    for proc in doomed:
        send(proc, signal.SIGKILL)
    return wait_gone(doomed, KILL_DEADLINE_S)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
