"""A child that multiprocessing *spawns*: a fresh interpreter.

It inherits no lock, no thread and no connection of the worker, only the descriptors that spawn
itself needs; its standard streams are replaced first (`stdio.py`). But it would inherit the
environment, and `/proc/<pid>/environ` would show that for all of its life. So while a child is
started the worker's own environment is reduced to the names that a runner keeps, its marker and its
device. Tokens of the worker's libraries are not among them.

Every start must happen on the supervisor's own thread: the kernel sends a child's parent-death
signal when the *thread* that started it ends.
"""

import multiprocessing
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

from shared.linux.child import AT_START, MARKER, child_main, keeps
from supervisor.processes.child import ChildProcess, Entry
from supervisor.processes.stdio import OutputReader

_spawn = multiprocessing.get_context("spawn")

# A child that has just begun waits on no hardware: SIGKILL ends it in milliseconds.
_UNWATCHED_S = 5.0


class SpawnedProcess(ChildProcess):
    """`entry` runs in it with its end of the socket and the worker's pid.

    Needs a running event loop. Raises `OSError` when the host has no process or descriptor left.
    """

    def __init__(self, entry: Entry, *, marker: str, environment: Mapping[str, str]) -> None:
        # Spawn would start it on first use, and it would get this child's marker.
        _start_tracker()
        with ExitStack() as undo, ExitStack() as child_ends:
            ours, other = socket.socketpair()
            undo.callback(ours.close)
            connection: Connection = Connection(other.detach())
            child_ends.callback(connection.close)
            self.output = OutputReader()
            undo.callback(self.output.close)
            child_ends.callback(self.output.write_end.close)
            self._process = _spawn.Process(
                target=child_main,
                args=(entry, connection, self.output.write_end, os.getpid()),
                name=f"runner {marker}",
            )
            with _environment({**AT_START, **environment, MARKER: marker}):
                self._process.start()
            # It runs, but there may be no descriptor left to watch it by.
            undo.callback(self._kill_unwatched)
            assert self._process.pid is not None
            self._watch(self._process.pid, marker, ours, undo)
            undo.pop_all()

    def _kill_unwatched(self) -> None:
        self._process.kill()
        self._process.join(_UNWATCHED_S)

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    def _release(self) -> None:
        os.close(self._pidfd)
        if self._process.exitcode is not None:
            self._process.close()


def _start_tracker() -> None:
    """Start multiprocessing's resource tracker, with no more environment than a runner has: every
    runner can read it."""
    with _environment({}):
        resource_tracker.ensure_running()


@contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    """Reduce `os.environ` to what a runner keeps, plus `extra`, while a child is started."""
    before = dict(os.environ)
    for name in before:
        if not keeps(name):
            del os.environ[name]
    os.environ.update(extra)
    try:
        yield
    finally:
        for name in extra.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
