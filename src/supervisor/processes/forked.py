"""A child that a template forked: the worker is its parent, as if it had spawned it itself."""

import os
import signal
import socket
from contextlib import ExitStack, suppress

from supervisor.processes.child import ChildProcess
from supervisor.processes.stdio import OutputReader

# Watched children that were closed before they ended; the kernel keeps them until they are
# collected.
_uncollected: set[int] = set()


class ForkedProcess(ChildProcess):
    """`pid` is a child of this process. Raises `OSError` when no descriptor is left."""

    def __init__(self, pid: int, marker: str, ours: socket.socket, output: OutputReader) -> None:
        self._exitcode: int | None = None
        self._closed = False
        self.output = output
        with ExitStack() as undo:
            # It runs, but there may be no descriptor left to watch it by.
            undo.callback(_kill_unwatched, pid)
            self._watch(pid, marker, ours, undo)
            undo.pop_all()
        _collect_given_up()

    @property
    def exitcode(self) -> int | None:
        if self._exitcode is None and not self._closed:
            self._exitcode = _collect(self._pidfd)
        return self._exitcode

    def _release(self) -> None:
        self._closed = True
        if self._exitcode is None:
            _uncollected.add(self._pidfd)
        else:
            os.close(self._pidfd)


def _kill_unwatched(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):  # it has ended, and was collected
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _collect(pidfd: int) -> int | None:
    """The exit code of a child, negative for a signal; None while it lives. Only once."""
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # a tree collected it, which happens to what was killed
        return -signal.SIGKILL
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _collect_given_up() -> None:
    for pidfd in list(_uncollected):
        if _collect(pidfd) is not None:
            _uncollected.remove(pidfd)
            os.close(pidfd)
