"""A runner's whole process tree: its members, their memory, and their end.

A runner executes other people's code. That code may fork, call `setsid`, or fork twice so that its
child has no parent in the tree. These facts catch all of these processes:

* A member is *recorded* with its start time when it is first seen. So a process that later leaves
  the tree is still known, and a reused pid is not mistaken for it.
* The worker is a child subreaper: an orphan of the tree becomes the worker's child instead of
  init's. A child that the worker did not start itself belongs to a runner.
* Where the kernel has a control group for the runner, it lists every process of it, wherever they
  went (`step_group.py`), and kills all of them at once.
* A runner starts with a marker in its environment, and its descendants inherit it. The marker says
  to which runner an adopted orphan belongs. An orphan whose marker names no living tree (it was
  deleted or forged) counts to every tree that existed before it: none of these trees is gone while
  it lives, and the first one that is killed kills it too. An orphan with the marker of another
  living tree belongs to that tree. The marker may be a lie; that is why a device is not clean while
  a process of *any* tree is on it (`all_pids`).

"No member is alive" does not yet prove "no member exists". A process that forks and exits, and
whose child does the same, is dead whenever its state is read, and its child is in a list that was
read before. But its zombie stays until the worker collects it, so the next scan finds a process
that is new. The tree is gone when two scans in a row found no member alive *and* no new one: a
process that lives at the second scan descends from one that lived at the first, and was known then
or is new now.

Descendants come from `/proc/<pid>/task/*/children`, not from a comparison of every process of the
host with its parent: a scan runs five times a second for each slot.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from shared.linux.proc import children_of
from supervisor.processes.step_group import StepGroup
from supervisor.processes.worker_mark import marker_of

# Every registered tree by its root's pid: a child of the worker that is a root is no orphan.
trees: dict[int, ProcessTree] = {}
# Markers of children that a template is forking: each becomes a root as soon as its pid is known.
_announced: set[str] = set()


@contextmanager
def announced(marker: str) -> Iterator[Callable[[int], bool]]:
    """While a template forks the child of this marker, no tree takes it for an orphan.

    Yields whether a process can be that child: it is ours, was not there before and is no root. A
    template reads the models of strangers; what it calls its fork may be any process of the host,
    which would be killed at the end of the step.
    """
    before = _look_up(children_of(os.getpid()))

    def may_be_it(pid: int) -> bool:
        # Not by the list of children: one that ends while it is read may hide another.
        ours = _parent_of(pid) == os.getpid()
        return ours and not _is_root(pid) and not _is_same(before.get(pid))

    _announced.add(marker)
    try:
        yield may_be_it
    finally:
        _announced.remove(marker)


def all_pids() -> frozenset[int]:
    """Every pid that ever belonged to a registered tree."""
    return frozenset[int]().union(*(tree.pids() for tree in trees.values()))


class ProcessTree:
    """Everything that descends from one runner. Only the supervisor's thread uses it."""

    def __init__(self, root: int, marker: str) -> None:
        """`root` is a child of this process that was just started and not yet collected."""
        self.root = root
        self.marker = marker
        self.has_newcomers = False  # the last scan found a new process: the tree still grows
        self._members = {root: psutil.Process(root)}  # alive, or not collected yet
        self._pids = {root}
        self._predecessors = _look_up(children_of(os.getpid()) - {root})  # older than this tree
        self._killing = False
        self.group: StepGroup | None = None  # once it has a step
        for tree in trees.values():  # what was taken for an orphan before its pid was known
            tree._members.pop(root, None)
        trees[root] = self

    def unregister(self) -> None:
        """Release the numbers and the marker of a tree that is gone: others may use them now."""
        if trees.get(self.root) is self:
            del trees[self.root]

    def scan(self) -> list[int]:
        """Collect ended members, find and record new ones; return the pids that are alive.

        After `kill`, a scan kills again whatever it finds alive: a tree that forks faster than one
        signal travels is caught in a later round.
        """
        self._collect()
        self.has_newcomers = False
        for pid in children_of(os.getpid()):
            if _is_root(pid) or self._knows(pid):
                continue
            match self._may_belong(pid):
                case True:
                    self._record(pid)
                case None:
                    self.has_newcomers = True  # look again before this tree counts as gone
        self._record_descendants()
        self._record_group()
        alive = [pid for pid, process in self._members.items() if is_alive(process)]
        if self._killing:
            self._send(alive, signal.SIGKILL)
        return alive

    def is_gone(self) -> bool:
        """Scan; True when no member is alive and none is new. Two in a row are the proof."""
        return not self.scan() and not self.has_newcomers

    def rss_bytes(self) -> int:
        """Resident memory of every living member."""
        self.scan()
        return self.known_rss_bytes()

    def known_rss_bytes(self) -> int:
        """The same of the members that are known by now. It is no scan: what a scan finds is new
        once, and it is the proof of this tree's end that has to see it."""
        total = 0
        for process in self._members.values():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def thread_count(self) -> int:
        """Of the members that are known by now."""
        total = 0
        for process in self._members.values():
            with suppress(psutil.Error):
                total += process.num_threads()
        return total

    def pids(self) -> frozenset[int]:
        """Every pid that ever belonged to the tree."""
        return frozenset(self._pids)

    def terminate(self) -> None:
        """Record every member, then SIGTERM to the runner's group, or to what it left behind."""
        alive = self.scan()
        if not self._signal_group(signal.SIGTERM):
            self._send(alive, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the group and to every recorded member, in whatever session it is."""
        try:
            self.scan()  # a dead parent has no children any more
        finally:
            self._killing = True
            if self.group is not None:
                self.group.kill()
            self._signal_group(signal.SIGKILL)
        self.scan()

    def _signal_group(self, number: signal.Signals) -> bool:
        """Signal the group of a living root; False when there is no such group.

        Until its `setsid` the runner is in the worker's own group, which must not be hit. Once the
        root was collected, its number may name another group.
        """
        if not is_alive(self._members[self.root]):
            return False
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(self.root) == self.root:
                os.killpg(self.root, number)
                return True
        return False

    def _send(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            # It is gone, or this user may not signal it: then the next scan finds it alive, and
            # the kill deadline reports it. psutil compares the start time first.
            with suppress(psutil.Error):
                self._members[pid].send_signal(number)

    def _collect(self) -> None:
        """Collect adopted members that ended, or the host runs out of pids.

        `ChildProcess` collects the root itself.
        """
        for pid in self._members.keys() - {self.root}:
            # Not by the number alone: it may be the next runner's by now, and that runner's exit
            # status is for its own `ChildProcess`.
            if _is_same(self._members[pid]):
                with suppress(ChildProcessError):  # its own parent is there
                    os.waitpid(pid, os.WNOHANG)
            if not _is_same(self._members[pid]):
                del self._members[pid]  # any process may have its number now

    def _record_descendants(self) -> None:
        # Of the living only: the number of a dead member may be another process's by now.
        todo = [pid for pid, process in self._members.items() if is_alive(process)]
        while todo:
            children = children_of(todo.pop())
            todo += [
                pid
                for pid in children
                if not _is_same(self._members.get(pid)) and self._record(pid)
            ]

    def _record_group(self) -> None:
        if self.group is not None:
            for pid in self.group.pids():
                if not _is_same(self._members.get(pid)):
                    self._record(pid)

    def _knows(self, pid: int) -> bool:
        """Whether this very process, not another one of the same number, was seen before."""
        return _is_same(self._members.get(pid)) or _is_same(self._predecessors.get(pid))

    def _may_belong(self, pid: int) -> bool | None:
        """Whether an orphan bears this tree's marker, or the marker of no living tree.

        None where that cannot be told yet: it has none, and may be a child that a template forks
        now. Never cached: a marker can change with every exec, and the tree that it names can end.
        """
        marker = marker_of(pid)
        if marker == self.marker:
            return True
        if marker is None and _announced:
            return None
        return marker not in _announced and all(tree.marker != marker for tree in trees.values())

    def _record(self, pid: int) -> bool:
        with suppress(psutil.NoSuchProcess):  # gone already: nothing to end, no memory held
            self._members[pid] = psutil.Process(pid)
            self._pids.add(pid)
            self.has_newcomers = True
            return True
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. A zombie does not: it holds nothing, and it may never be collected."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def is_stopped(pid: int) -> bool:
    """Whether a signal or a tracer has stopped it: it may never run again."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _parent_of(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None


def _look_up(pids: set[int]) -> dict[int, psutil.Process]:
    processes = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            processes[pid] = psutil.Process(pid)
    return processes


def _is_root(pid: int) -> bool:
    return pid in trees and _is_same(trees[pid]._members[pid])


def _is_same(process: psutil.Process | None) -> bool:
    """Whether a recorded process is still the one that has its number; zombies included."""
    return process is not None and process.is_running()
