"""One child process of the worker, from the worker's side: sent to, watched, killed, collected.

A child is spawned (`spawned.py`), or a template forks it (`forked.py`). What follows is the same.
"""

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection

import anyio
import anyio.lowlevel

from shared.retry import backoff
from supervisor.processes.channel import Channel
from supervisor.processes.stdio import OutputReader
from supervisor.processes.tree import ProcessTree, trees

log = logging.getLogger(__name__)

# What a child runs, with its end of the socket and the pid of the worker.
Entry = Callable[[Connection, int], None]

# After the root process is gone its last frames are still in the socket. While a descendant holds
# the other end open, the end of the stream never comes.
LAST_FRAMES_S = 1.0
_SCAN_FIRST_S, SCAN_MOST_S = 0.01, 0.2
# SIGKILL needs no cooperation; a process that is there after this waits on hardware.
KILL_ALL_S = 5.0


class ChildProcess(ABC):
    """A started child. `close` it when its tree is gone; until then it holds three descriptors."""

    pid: int
    channel: Channel
    output: OutputReader
    tree: ProcessTree
    _pidfd: int
    ended: anyio.Event  # `wait_exit` has seen the end of the root
    _proven_gone = False  # by `wait_gone`

    def _watch(self, pid: int, marker: str, ours: socket.socket, undo: ExitStack) -> None:
        """Take over a child that has just begun: it runs, and is not collected yet.

        Raises `OSError` where no descriptor is left to watch it by.
        """
        self.pid = pid
        self.channel = Channel(ours)
        self.ended = anyio.Event()
        self._pidfd = os.pidfd_open(pid)
        undo.callback(os.close, self._pidfd)
        self.tree = ProcessTree(pid, marker)

    @property
    @abstractmethod
    def exitcode(self) -> int | None:
        """The root's exit code if it has ended, negative for a signal."""

    @abstractmethod
    def _release(self) -> None:
        """Give up what watches the exit status; the last call."""

    async def wait_exit(self) -> int:
        """Wait for the root process; return its exit code, negative for a signal.

        One task at a time may wait. Descendants may live on: see `wait_gone`.
        """
        await anyio.wait_readable(self._pidfd)
        exitcode = self.exitcode
        assert exitcode is not None  # the descriptor is readable from the end of the process on
        self.ended.set()
        return exitcode

    async def wait_gone(self) -> None:
        """Wait until the whole tree is gone: two scans in a row found it so."""
        pauses, clean = _scan_pauses(), 0
        while True:
            gone, ended = self.tree.is_gone(), self.exitcode is not None
            clean = clean + 1 if gone and ended else 0
            if clean == 2:
                self._proven_gone = True
                return
            if clean:  # what lives at the second scan descends from what lives at this one
                await anyio.lowlevel.checkpoint()
                continue
            if self.tree.has_newcomers:  # it grows: look, and kill, without delay
                pauses = _scan_pauses()
            if ended:
                await anyio.sleep(next(pauses))
                continue
            with anyio.move_on_after(next(pauses)):
                await self.ended.wait()
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
        # After the proof an orphan that nobody knows may appear: it counts to every tree, and this
        # one would stay registered for ever.
        if self._proven_gone or (self.exitcode is not None and self.tree.is_gone()):
            self.tree.unregister()
        if self.tree.group is not None:
            self.tree.group.release()
        self._release()


def _scan_pauses() -> Iterator[float]:
    return backoff(first_s=_SCAN_FIRST_S, most_s=SCAN_MOST_S)


async def kill_all_trees() -> None:
    """Kill every runner and helper of this process, and wait until all are gone.

    For a supervisor that fails: the kernel ends spawned runners with its thread and forked ones
    with the worker, but not their descendants. Bounded: the worker's next start finds a survivor by
    its marker.
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
