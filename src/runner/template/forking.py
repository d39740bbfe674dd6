"""Fork a child of the worker, and make it one: nothing of the template or of another runner stays.

The worker adopts orphans, so a process that is forked twice, and whose parent ends, becomes the
worker's child: its exit status, its parent-death signal and its process tree are as if the worker
had spawned it. What a fork inherits and must not share is replaced here: the marker, descriptors,
standard streams, the state of random generators. The rest (session, signals, environment) the
child's entry does, as a spawned child's does.
"""

import ctypes
import os
import random
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import resource_tracker

from shared.linux.child import MARKER

DEVICE_FILES = "/dev/nvidia"
_PID = struct.Struct("i")
_PARENT_ENDS_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.0002
_libc = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p


class Unfit(Exception):
    """A fork of this process would not be sound; the message says why."""


class Identity:
    """The place in memory from which `/proc/<pid>/environ` shows this process's marker.

    Made before the environment is changed: the C library moves a variable that is set again.
    """

    def __init__(self) -> None:
        self._address = _libc.getenv(MARKER.encode())
        self._length = len(os.environ[MARKER])

    def replace(self, marker: str) -> None:
        """Show `marker` from now on, to the kernel and to descendants."""
        written = marker.encode()
        if len(written) != self._length:
            raise ValueError(f"a marker has {self._length} bytes, not {len(written)}")
        ctypes.memmove(self._address, written, len(written))
        os.environ[MARKER] = marker  # for what this process starts by exec


def check_fit() -> None:
    """Raise `Unfit` unless this process has one thread and no device open.

    A thread does not survive a fork, and what it holds stays locked. CUDA does not survive one
    either, so no forked process may inherit an open device.
    """
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise Unfit(f"{threads} threads")
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            if (path := os.readlink(f"/proc/self/fd/{fd}")).startswith(DEVICE_FILES):
                raise Unfit(f"{path} is open")


def fork_to_worker() -> int:
    """Fork twice: 0 in the new process, its pid in this one. Raises `OSError`."""
    reader, writer = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if between == 0:
        _fork_and_end(writer)
        os.close(reader)
        os.close(writer)
        return 0
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        (pid,) = _PID.unpack(answer.read(_PID.size) or _PID.pack(0))
    os.waitpid(between, 0)
    if pid <= 0:
        raise OSError(-pid, os.strerror(-pid) if pid else "the process between was killed")
    return int(pid)


def _fork_and_end(writer: int) -> None:
    """Fork once more and end; returns in the new process alone.

    In a session of its own: a signal to the template's group must not reach the new process.
    """
    os.setsid()
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid != 0:
        os.write(writer, _PID.pack(pid))
        os._exit(0)


def become_child(
    worker_pid: int, identity: Identity, marker: str, environment: Mapping[str, str], output: int
) -> None:
    """In the new process: wait for the worker to be its parent, then drop what is not its own.

    `output` becomes its standard streams. Descriptors are the caller's to close.
    """
    _wait_for_parent(worker_pid)
    identity.replace(marker)
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(output, stream)
    _reseed()


def close_all_but(channel: int) -> None:
    """Close every descriptor but `channel`, the standard streams and multiprocessing's tracker."""
    kept = {0, 1, 2, channel, resource_tracker.getfd()}
    for fd in {int(name) for name in os.listdir("/proc/self/fd")} - kept:
        with suppress(OSError):  # the descriptor of the listing itself
            os.close(fd)


def _wait_for_parent(worker_pid: int) -> None:
    """The kernel makes the worker our parent once the process between has ended."""
    between = os.getsid(0)  # it leads our session; by now our parent may be init
    deadline = time.monotonic() + _PARENT_ENDS_WITHIN_S
    while (parent := os.getppid()) != worker_pid:
        if parent != between or time.monotonic() > deadline:
            os._exit(1)  # the worker has ended
        time.sleep(_LOOK_EVERY_S)


def _reseed() -> None:
    """Draw new seeds: two runners of one template would else draw the same numbers."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()
