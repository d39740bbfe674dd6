"""A runner's whole process tree: who belongs to it, how much it holds, and its end.

A runner executes other people's code, which may fork, `setsid`, or fork twice so that its child
has no parent of ours. Three facts catch all of them:

* Every member found is *recorded* with its start time, so a process that later leaves the tree is
  still known, and a reused pid is not mistaken for it.
* The worker is a child subreaper: an orphan of the tree becomes the worker's child instead of
  init's. A child of the worker that nobody started on purpose belongs to a runner.
* A runner is born with a marker in its environment which its descendants inherit, so that an
  adopted orphan can be told to belong to this runner and not to its neighbour's. One whose marker
  is no living tree's, because it was thrown away or forged, is counted to every tree that was
  there: none of them is gone while it lives, and the first to be killed takes it along. One that
  bears a neighbour's marker is the neighbour's, for as long as there is that neighbour; that it
  may be a lie is why a device is not clean while a process of *any* tree is on it (`all_pids`).

Nobody alive is not yet nobody there. A process that forks and exits, and whose child does the same,
is dead whenever its state is asked for, and its child is in a list that was read before. But it
leaves its body behind, for us to collect, so the next look finds somebody whom it does not know.
The tree is gone when two looks in a row found nobody alive *and* nobody new: whoever lives at the
second look descends from somebody who lived at the first, and was known by then or is new now.

Descendants are read from `/proc/<pid>/task/*/children` rather than by comparing every process on
the host with its parent: this runs five times a second for each slot.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

MARKER = "DREAMFORGE_RUNNER"

# What reading /proc raises of a process that has ended.
_GONE = (FileNotFoundError, ProcessLookupError)

# Every tree that somebody watches, by its root: a child of ours that is a root is no orphan.
_trees: dict[int, ProcessTree] = {}


def all_trees() -> list[ProcessTree]:
    """Every tree that is watched."""
    return list(_trees.values())


def all_pids() -> frozenset[int]:
    """Every pid that ever belonged to a tree that is watched."""
    return frozenset[int]().union(*(tree.pids() for tree in _trees.values()))


def children_of(pid: int) -> set[int]:
    """Direct children of a process, over all of its threads; empty when it is gone.

    Raises `OSError` when they cannot be read for another reason: nobody seen is not nobody there.
    """
    found: set[int] = set()
    with suppress(*_GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(*_GONE):  # a thread that ended between the listing and the read
                found.update(map(int, (task / "children").read_text().split()))
    return found


def marker_of(pid: int) -> str | None:
    """The runner's marker in the environment that a process was started with."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{MARKER}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode(errors="replace")
    return None


class ProcessTree:
    """Everything that descends from one runner. The supervisor's thread alone touches it."""

    def __init__(self, root: int, marker: str) -> None:
        """`root` is a child of this process that was just started and not yet collected."""
        self.root = root
        self.marker = marker
        self._members = {root: psutil.Process(root)}  # that live, or were not collected yet
        self._pids = {root}
        self._predecessors = _look_up(children_of(os.getpid()) - {root})  # were there before it
        self._killing = False
        self._has_newcomers = False
        _trees[root] = self

    def unregister(self) -> None:
        """Nobody of it is alive or watched any more: its numbers and its marker are anybody's."""
        if _trees.get(self.root) is self:
            del _trees[self.root]

    def scan(self) -> list[int]:
        """Collect who ended, look for members and record them; return the pids that are alive.

        After `kill`, whatever is found alive is killed again: a tree that forks faster than one
        signal travels is caught in a later round.
        """
        self._collect()
        self._has_newcomers = False
        for pid in children_of(os.getpid()):
            if not _is_root(pid) and not self._knows(pid) and self._may_be_ours(pid):
                self._record(pid)
        self._record_descendants()
        living = [pid for pid, process in self._members.items() if _alive(process)]
        if self._killing:
            self._send(living, signal.SIGKILL)
        return living

    def is_gone(self) -> bool:
        """Whether nobody lives, and nobody came since the last look: proof when it is so twice in
        a row, see above."""
        return not self.scan() and not self._has_newcomers

    @property
    def has_newcomers(self) -> bool:
        """Whether the last look found somebody new: the tree is still being born."""
        return self._has_newcomers

    def rss_bytes(self) -> int:
        """Resident memory of every living member."""
        total = 0
        for pid in self.scan():
            with suppress(psutil.Error):
                total += self._members[pid].memory_info().rss
        return total

    def pids(self) -> frozenset[int]:
        """Every pid that ever belonged to the tree."""
        return frozenset(self._pids)

    def terminate(self) -> None:
        """SIGTERM to the runner's group, or to whom it left behind; everyone is recorded first."""
        living = self.scan()
        if not self._signal_group(signal.SIGTERM):
            self._send(living, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the group and to every recorded member, wherever it went."""
        try:
            self.scan()  # a dead parent has no children any more
        finally:
            self._killing = True
            self._signal_group(signal.SIGKILL)
        self.scan()

    def _signal_group(self, number: signal.Signals) -> bool:
        """Signal the group of a living root; False when there is no such group (yet, or any more).

        Until its `setsid` the runner is still in our own group, which must not be hit; once the
        root was collected its number may name somebody else's group.
        """
        if not _alive(self._members[self.root]):
            return False
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(self.root) == self.root:
                os.killpg(self.root, number)
                return True
        return False

    def _send(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            # Gone, or not to be signalled by us: the next scan finds it alive, and the kill
            # deadline says so. psutil compares the start time first.
            with suppress(psutil.Error):
                self._members[pid].send_signal(number)

    def _collect(self) -> None:
        """Collect adopted members that ended, or their numbers run out. The root is collected by
        whoever started it."""
        for pid in self._members.keys() - {self.root}:
            # Not by its number alone: that may be the next runner's by now, and its exit status
            # is for whoever waits for it.
            if _is(self._members[pid]):
                with suppress(ChildProcessError):  # its own parent is there
                    os.waitpid(pid, os.WNOHANG)
            if not _is(self._members[pid]):
                del self._members[pid]  # its number is anybody's now, and need not be looked at

    def _record_descendants(self) -> None:
        # Of the living only: the number of a dead member may be somebody else's by now.
        todo = [pid for pid, process in self._members.items() if _alive(process)]
        while todo:
            children = children_of(todo.pop())
            todo += [
                pid for pid in children if not _is(self._members.get(pid)) and self._record(pid)
            ]

    def _knows(self, pid: int) -> bool:
        """Whether this very process, and not another one of the same number, was seen before."""
        return _is(self._members.get(pid)) or _is(self._predecessors.get(pid))

    def _may_be_ours(self, pid: int) -> bool:
        """Whether an orphan is ours, or nobody's who could be asked. Never kept: a marker can
        change with every exec, and the tree that it names can end."""
        marker = marker_of(pid)
        return marker == self.marker or not any(tree.marker == marker for tree in _trees.values())

    def _record(self, pid: int) -> bool:
        with suppress(psutil.NoSuchProcess):  # gone already: nothing to end, nothing held
            self._members[pid] = psutil.Process(pid)
            self._pids.add(pid)
            self._has_newcomers = True
            return True
        return False


def _look_up(pids: set[int]) -> dict[int, psutil.Process]:
    found = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found[pid] = psutil.Process(pid)
    return found


def _is_root(pid: int) -> bool:
    return pid in _trees and _is(_trees[pid]._members[pid])


def _is(process: psutil.Process | None) -> bool:
    """Whether a recorded process is still the one that has its number; zombies included."""
    return process is not None and process.is_running()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
