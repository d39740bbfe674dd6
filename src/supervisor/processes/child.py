"""One runner process, from the parent's side: started here, spoken to, watched, collected.

`multiprocessing` *spawn* starts a fresh interpreter, so a runner inherits no lock, no thread and no
connection of ours, only the descriptors that spawn itself needs; its standard streams are replaced
before it does anything (`output.py`). What it would still inherit is the environment, and would
show it in `/proc/<pid>/environ` for all of its life. So for the moment of the start ours is what a
runner may have: the names that it keeps anyway, a marker and its device. A token that a library of
the worker reads is not among them.

Every `start` must happen on the supervisor's own thread: the kernel sends a runner's parent-death
signal when the *thread* that started it ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import anyio

from shared.linux.child import child_main, keeps
from supervisor.processes.channel import Channel
from supervisor.processes.stdio import Output
from supervisor.processes.tree import MARKER, ProcessTree, all_trees

log = logging.getLogger(__name__)

Entry = Callable[[Connection, int], None]

_spawn = multiprocessing.get_context("spawn")

# After the root process is gone its last frames are still in the socket. A descendant that holds
# the other end open must not keep us waiting for an end that never comes.
LAST_FRAMES_S = 1.0
_SCAN_FIRST_S, SCAN_MOST_S = 0.01, 0.2
# One that has just begun waits on no hardware: SIGKILL ends it in milliseconds.
_BORN_DEAD_S = 5.0
# SIGKILL needs no cooperation; who is there after this waits on hardware.
END_ALL_S = 5.0


class RunnerProcess:
    """A started runner. `close` when its tree is gone; until then it holds three descriptors.

    `entry` runs in it with its end of the socket and our pid. Made on a running event loop.
    """

    def __init__(self, entry: Entry, *, marker: str, environment: Mapping[str, str]) -> None:
        # Spawn starts it on first use, and it would be born with this runner's marker.
        start_tracker()
        with ExitStack() as undo, ExitStack() as theirs:
            ours, other = socket.socketpair()
            undo.callback(ours.close)
            connection: Connection = Connection(other.detach())
            theirs.callback(connection.close)
            self.output = Output()
            undo.callback(self.output.close)
            theirs.callback(self.output.write_end.close)
            self._process = _spawn.Process(
                target=child_main,
                args=(entry, connection, self.output.write_end, os.getpid()),
                name=f"runner {marker}",
            )
            with _environment({**environment, MARKER: marker}):
                self._process.start()
            # It runs, but there may be no descriptor left to watch it by.
            undo.callback(self._end_unwatched)
            assert self._process.pid is not None
            self.pid: int = self._process.pid
            self.marker = marker
            self.channel = Channel(ours)
            self._pidfd = os.pidfd_open(self.pid)
            undo.callback(os.close, self._pidfd)
            self.tree = ProcessTree(self.pid, marker)
            undo.pop_all()

    def _end_unwatched(self) -> None:
        self._process.kill()
        self._process.join(_BORN_DEAD_S)

    async def wait_exit(self) -> int:
        """Wait for the root process; return its exit code, negative for a signal.

        One task at a time may wait. Descendants may live on: see `wait_gone`.
        """
        await anyio.wait_readable(self._pidfd)
        self._process.join()  # collects; returns at once
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def exitcode(self) -> int | None:
        """The root's exit code if it has ended."""
        return self._process.exitcode

    async def wait_gone(self) -> None:
        """Wait until nothing of the tree is alive: two looks in a row found it gone."""
        pause_s, clean = _SCAN_FIRST_S, 0
        while True:
            clean = clean + 1 if self.tree.is_gone() and self._process.exitcode is not None else 0
            if clean == 2:
                return
            await anyio.sleep(pause_s)
            # One that is still being born is looked for, and if need be killed, without rest.
            pause_s = _SCAN_FIRST_S if self.tree.has_newcomers else min(2 * pause_s, SCAN_MOST_S)

    def close(self) -> None:
        """Give the descriptors back. The processes themselves must be gone, or given up on: then
        the tree goes on being watched by whoever keeps it, until `ProcessTree.unregister`."""
        self.channel.close()
        self.output.close()
        os.close(self._pidfd)
        if self._process.exitcode is not None:
            self._process.close()
            if self.tree.is_gone():
                self.tree.unregister()


async def kill_all_trees() -> None:
    """Kill what lives of every runner and helper of this process, and wait until it is gone.

    For a supervisor that fails: the kernel ends its runners with its thread, but not who left their
    session. Bounded; who survives is found by its marker at the worker's next start.
    """
    clean = 0
    with anyio.CancelScope(shield=True), anyio.move_on_after(END_ALL_S):
        for tree in all_trees():
            kill(tree)
        while True:
            gone = [_is_gone(tree) for tree in all_trees()]  # each, since it kills whom it finds
            clean = clean + 1 if all(gone) else 0
            if clean == 2:
                return
            await anyio.sleep(SCAN_MOST_S)
    living = [pid for tree in all_trees() for pid in tree.scan()]
    log.error("processes that outlive their worker: %s", living)


def kill(tree: ProcessTree) -> None:
    """SIGKILL to a tree when nothing else can be done about it. Whom this does not find, because
    `/proc` cannot be read at the moment, each later look kills."""
    try:
        tree.kill()
    except OSError as error:
        log.error("cannot look for the processes of %s: %s", tree.marker, error)


def _is_gone(tree: ProcessTree) -> bool:
    try:
        return tree.is_gone()
    except OSError as error:
        log.error("cannot look for the processes of %s: %s", tree.marker, error)
        return False


def start_tracker() -> None:
    """Start multiprocessing's resource tracker. It lives beside every runner, which can read it."""
    with _environment({}):
        resource_tracker.ensure_running()


@contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    """What a runner keeps of our environment, and `extra`, for as long as a child is started."""
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
