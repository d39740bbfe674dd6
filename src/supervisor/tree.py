"""A runner's whole process tree: who belongs to it, how much it holds, and its end.

A runner executes other people's code, which may fork, `setsid`, or fork twice so that its child
has no parent of ours. Three facts catch all of them:

* Every member found is *recorded* with its start time, so a process that later leaves the tree is
  still known, and a reused pid is not mistaken for it.
* The worker is a child subreaper: an orphan of the tree becomes the worker's child instead of
  init's. A child of the worker that nobody started on purpose belongs to a runner.
* A runner is born with a marker in its environment which its descendants inherit, so that an
  adopted orphan can be told to belong to this runner and not to its neighbour's. One that has
  thrown its marker away is counted to every tree that was there: none of them is gone while it
  lives, and the first to be killed takes it along.

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


_started: set[int] = set()


def started_on_purpose(pid: int) -> None:
    """Say that a child of this process is the root of a tree, and no orphan."""
    _started.add(pid)


def forget(pid: int) -> None:
    """The root has been collected: its number may be given to anybody."""
    _started.discard(pid)


def children_of(pid: int) -> set[int]:
    """Direct children of a process, over all of its threads; empty when it is gone."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that ended between the listing and the read
                found.update(map(int, (task / "children").read_text().split()))
    except OSError:
        pass
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
        self.root = root
        self._marker = marker
        self._members: dict[int, psutil.Process] = {}
        self._cleared = children_of(os.getpid())  # were there before, or were seen not to be ours
        self._killing = False
        self._members[root] = psutil.Process(root)  # our uncollected child: it cannot be missing

    def observe(self) -> list[int]:
        """Look for members and record them; return the pids that are alive, zombies excluded.

        After `kill`, whatever is found alive is killed again: a tree that forks faster than one
        signal travels is caught in a later round.
        """
        for pid in children_of(os.getpid()) - self._members.keys() - self._cleared - _started:
            if marker_of(pid) in (self._marker, None):
                self._record(pid)
            else:
                self._cleared.add(pid)
        self._record_descendants()
        living = [pid for pid, process in self._members.items() if _alive(process)]
        if self._killing:
            self._send(living, signal.SIGKILL)
        return living

    def rss_bytes(self) -> int:
        """Resident memory of every living member."""
        total = 0
        for pid in self.observe():
            with suppress(psutil.Error):
                total += self._members[pid].memory_info().rss
        return total

    def pids(self) -> frozenset[int]:
        """Every pid that ever belonged to the tree."""
        return frozenset(self._members)

    def terminate(self) -> None:
        """SIGTERM to the runner's group, or to whom it left behind; everyone is recorded first."""
        living = self.observe()
        if not self._signal_group(signal.SIGTERM):
            self._send(living, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the group and to every recorded member, wherever it went."""
        self.observe()  # a dead parent has no children any more
        self._killing = True
        self._signal_group(signal.SIGKILL)
        self.observe()

    def reap(self) -> None:
        """Collect adopted members that ended. The root is collected by whoever started it."""
        for pid in self._members.keys() - {self.root}:
            with suppress(ChildProcessError):  # its own parent is there, or it was collected
                os.waitpid(pid, os.WNOHANG)

    def _signal_group(self, number: signal.Signals) -> bool:
        """Signal the group of a living root; False when there is no such group (yet, or any more).

        Until its `setsid` the runner is still in our own group, which must not be hit; once the
        root was collected its number may name somebody else's group.
        """
        if not _alive(self._members[self.root]):
            return False
        with suppress(ProcessLookupError):
            if os.getpgid(self.root) == self.root:
                os.killpg(self.root, number)
                return True
        return False

    def _send(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                self._members[pid].send_signal(number)  # psutil compares the start time first

    def _record_descendants(self) -> None:
        # Of the living only: the number of a dead member may be somebody else's by now.
        todo = [pid for pid, process in self._members.items() if _alive(process)]
        while todo:
            for child in children_of(todo.pop()):
                known = self._members.get(child)
                if (known is None or not known.is_running()) and self._record(child):
                    todo.append(child)

    def _record(self, pid: int) -> bool:
        with suppress(psutil.NoSuchProcess):  # gone already: nothing to end, nothing held
            self._members[pid] = psutil.Process(pid)
            return True
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
