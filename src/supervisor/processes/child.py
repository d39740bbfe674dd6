"""One child process of the worker, from the worker's side: started, sent to, watched, collected.

`multiprocessing` *spawn* starts a fresh interpreter, so a child inherits no lock, no thread and no
connection of the worker, only the descriptors that spawn itself needs; its standard streams are
replaced first (`stdio.py`). But it would inherit the environment, and `/proc/<pid>/environ` would
show that for all of its life. So while a child is started the worker's own environment is reduced
to the names that a runner keeps, its marker and its device. Tokens of the worker's libraries are
not among them.

Every start must happen on the supervisor's own thread: the kernel sends a child's parent-death
signal when the *thread* that started it ends.
"""

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
from shared.retry import backoff
from supervisor.processes.channel import Channel
from supervisor.processes.stdio import OutputReader
from supervisor.processes.tree import ProcessTree, trees
from supervisor.processes.worker_mark import MARKER

log = logging.getLogger(__name__)

Entry = Callable[[Connection, int], None]

_spawn = multiprocessing.get_context("spawn")

# After the root process is gone its last frames are still in the socket. While a descendant holds
# the other end open, the end of the stream never comes.
LAST_FRAMES_S = 1.0
_SCAN_FIRST_S, SCAN_MOST_S = 0.01, 0.2
# A child that has just begun waits on no hardware: SIGKILL ends it in milliseconds.
_UNWATCHED_S = 5.0
# SIGKILL needs no cooperation; a process that is there after this waits on hardware.
KILL_ALL_S = 5.0


class RunnerProcess:
    """A started child. `close` it when its tree is gone; until then it holds three descriptors.

    `entry` runs in it with its end of the socket and the worker's pid. Needs a running event loop.
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
            with _environment({**environment, MARKER: marker}):
                self._process.start()
            # It runs, but there may be no descriptor left to watch it by.
            undo.callback(self._kill_unwatched)
            assert self._process.pid is not None
            self.pid: int = self._process.pid
            self.channel = Channel(ours)
            self._pidfd = os.pidfd_open(self.pid)
            undo.callback(os.close, self._pidfd)
            self.tree = ProcessTree(self.pid, marker)
            undo.pop_all()

    def _kill_unwatched(self) -> None:
        self._process.kill()
        self._process.join(_UNWATCHED_S)

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
        """Wait until the whole tree is gone: two scans in a row found it so."""
        pauses, clean = _scan_pauses(), 0
        while True:
            clean = clean + 1 if self.tree.is_gone() and self._process.exitcode is not None else 0
            if clean == 2:
                return
            await anyio.sleep(next(pauses))
            if self.tree.has_newcomers:  # it still grows: scan, and if need be kill, without delay
                pauses = _scan_pauses()

    async def kill_and_close(self, within_s: float) -> bool:
        """Kill the tree and close the descriptors; False, and open, if it is not gone in time."""
        self.tree.kill()
        with anyio.CancelScope(shield=True), anyio.move_on_after(within_s):
            await self.wait_gone()
            self.close()
            return True
        return False

    def close(self) -> None:
        """Close the descriptors, when the tree is gone or the wait for it was given up.

        A tree that is not gone stays registered until `ProcessTree.unregister`.
        """
        self.channel.close()
        self.output.close()
        os.close(self._pidfd)
        if self._process.exitcode is not None:
            self._process.close()
            if self.tree.is_gone():
                self.tree.unregister()


def _scan_pauses() -> Iterator[float]:
    return backoff(first_s=_SCAN_FIRST_S, most_s=SCAN_MOST_S)


async def kill_all_trees() -> None:
    """Kill every runner and helper of this process, and wait until all are gone.

    For a supervisor that fails: the kernel ends its runners with its thread, but not their
    descendants. Bounded: the worker's next start finds a survivor by its marker.
    """
    clean = 0
    with anyio.CancelScope(shield=True), anyio.move_on_after(KILL_ALL_S):
        for tree in trees.values():
            kill(tree)
        while True:
            # A list, not a generator: each scan kills what it finds, so every tree is scanned.
            gone = [_is_gone(tree) for tree in trees.values()]
            clean = clean + 1 if all(gone) else 0
            if clean == 2:
                return
            await anyio.sleep(SCAN_MOST_S)
    survivors = [pid for tree in trees.values() for pid in tree.scan()]
    log.error("processes that outlive their worker: %s", survivors)


def kill(tree: ProcessTree) -> None:
    """SIGKILL to a tree. A process that this scan misses, because `/proc` cannot be read now, is
    killed by a later scan."""
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
