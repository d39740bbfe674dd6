"""Signals to the stack's processes, and waiting for their end.

The kernel gives the pid of a dead process to a new one. `psutil.Process` holds pid and start time
and compares both, and `send` opens a pidfd before that comparison: no signal reaches the new one.
A zombie counts as gone: it holds no memory, no port and no file.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from shared.linux import proc

POLL_S = 0.02
# After SIGKILL only the kernel is at work; a process in an uninterruptible read may take a while.
KILL_DEADLINE_S = 10.0


def alive(process: psutil.Process) -> bool:
    """Whether this very process runs, and not another one with its pid."""
    try:
        dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    return not dead and process.is_running()


def find_living(pid: int) -> psutil.Process | None:
    """The process that has this pid now, None where it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
    except (psutil.NoSuchProcess, ValueError):  # ValueError: no pid can be this number
        return None
    return process if alive(process) else None


def start_ticks(process: psutil.Process) -> int:
    """When the process started, in clock ticks since boot. A change of the clock keeps it."""
    return round((process.create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK"))


def family(root: psutil.Process) -> set[psutil.Process]:
    """The process and all its descendants. Take it *before* a kill: orphans are found no more."""
    try:
        tree = {root, *root.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()
    return set(filter(alive, tree))


def with_environ(name: str, value: str) -> set[psutil.Process]:
    """Every living process, ourselves excepted, that carries `name=value` and lets us see it."""
    carriers = set()
    # Not `psutil.process_iter`: it keeps its objects, and so may hold the former owner of a pid.
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess, PermissionError):
            if pid != os.getpid() and proc.environment_value(pid, name) == value:
                carriers.add(psutil.Process(pid))
    return set(filter(alive, carriers))


def send(process: psutil.Process, signum: signal.Signals) -> None:
    """Signal exactly this process; nothing happens when it is gone."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(process.pid)
        try:
            if alive(process):
                signal.pidfd_send_signal(fd, signum)
        finally:
            os.close(fd)


def wait_gone(
    processes: Iterable[psutil.Process],
    timeout_s: float,
    skip_grace: Callable[[], bool] = lambda: False,
) -> set[psutil.Process]:
    """Wait until all are gone, the time is over or `skip_grace` says so; returns what is left."""
    deadline = time.monotonic() + timeout_s
    left = set(filter(alive, processes))
    while left and time.monotonic() < deadline and not skip_grace():
        time.sleep(POLL_S)
        left = set(filter(alive, left))
    return left


def kill(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """SIGKILL all of them and wait; returns what is left after the deadline."""
    victims = set(processes)
    for process in victims:
        send(process, signal.SIGKILL)
    return wait_gone(victims, KILL_DEADLINE_S)
