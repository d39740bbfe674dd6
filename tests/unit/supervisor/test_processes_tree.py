"""Who belongs to a runner's tree, by a process table that a test writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import anyio
import psutil
import pytest

from supervisor.processes import tree as tree_module
from supervisor.processes.child import ChildProcess
from supervisor.processes.tree import ProcessTree, all_pids

ROOT = 900_000
OURS, THEIRS = "worker:1", "worker:2"


@dataclass
class Table:
    """Processes that are there. Everybody not listed is gone."""

    children: dict[int, set[int]] = field(default_factory=dict)
    markers: dict[int, str] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    signals: list[tuple[int, signal.Signals]] = field(default_factory=list)
    zombies: set[int] = field(default_factory=set)
    collected: list[int] = field(default_factory=list)

    def add(self, pid: int, parent: int, marker: str | None = OURS) -> None:
        self.children.setdefault(parent, set()).add(pid)
        self.starts[pid] = self.starts.get(pid, 0) + 1
        if marker is not None:
            self.markers[pid] = marker

    def end(self, pid: int) -> None:
        """The process ends; its children become ours, as a subreaper's do."""
        for siblings in self.children.values():
            siblings.discard(pid)
        self.children.setdefault(os.getpid(), set()).update(self.children.pop(pid, set()))
        self.markers.pop(pid, None)
        self.starts[pid] += 1

    def hop(self, pid: int, to: int) -> None:
        """The process forks and is dead; its child is ours, its body waits to be collected."""
        self.zombies.add(pid)
        self.add(to, os.getpid(), self.markers.pop(pid, None))

    def collect(self, pid: int, _options: int) -> tuple[int, int]:
        self.collected.append(pid)
        if pid not in self.zombies:
            return 0, 0
        self.zombies.remove(pid)
        self.end(pid)
        return pid, 0

    def is_there(self, pid: int) -> bool:
        return any(pid in siblings for siblings in self.children.values())


class Process:
    """As much of psutil's as the tree uses."""

    table: Table

    def __init__(self, pid: int) -> None:
        if not self.table.is_there(pid):
            raise psutil.NoSuchProcess(pid)
        self.pid = pid
        self._start = self.table.starts[pid]

    def is_running(self) -> bool:
        return self.table.is_there(self.pid) and self.table.starts[self.pid] == self._start

    def status(self) -> str:
        there = self.pid in self.table.zombies
        return psutil.STATUS_ZOMBIE if there else psutil.STATUS_SLEEPING

    def ppid(self) -> int:
        (parent,) = (
            parent for parent, children in self.table.children.items() if self.pid in children
        )
        return parent

    def send_signal(self, number: signal.Signals) -> None:
        self.table.signals.append((self.pid, number))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    made = Table()
    made.add(ROOT, os.getpid())
    monkeypatch.setattr(Process, "table", made, raising=False)
    monkeypatch.setattr(tree_module, "trees", {})
    monkeypatch.setattr(tree_module, "children_of", lambda pid: set(made.children.get(pid, ())))
    monkeypatch.setattr(tree_module, "marker_of", made.markers.get)
    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setattr(os, "getpgid", lambda pid: 0)  # no group to be signalled
    monkeypatch.setattr(os, "waitpid", made.collect)
    return made


def test_descendants_of_any_depth_are_found(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    for depth in range(2000):
        table.add(ROOT + depth + 1, ROOT + depth)
    assert len(tree.scan()) == 2001


def test_a_member_that_left_the_tree_is_still_known(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(1, ROOT)
    table.add(2, 1)
    tree.scan()
    table.children[1].discard(2)
    table.add(2, 77)
    table.starts[2] -= 1  # the same process, with another parent
    table.end(ROOT)
    assert set(tree.scan()) == {1, 2}


def test_an_adopted_orphan_is_told_by_its_marker(table: Table) -> None:
    table.add(ROOT + 1, os.getpid(), THEIRS)
    tree, neighbour = ProcessTree(ROOT, OURS), ProcessTree(ROOT + 1, THEIRS)
    table.add(1, os.getpid(), OURS)
    table.add(2, os.getpid(), THEIRS)
    table.add(3, 1)
    assert set(tree.scan()) == {ROOT, 1, 3}
    assert set(neighbour.scan()) == {ROOT + 1, 2}


@pytest.mark.parametrize("marker", [None, "forged"])
def test_an_orphan_that_is_no_trees_counts_to_every_tree_that_was_there(
    table: Table, marker: str | None
) -> None:
    table.add(ROOT + 1, os.getpid(), THEIRS)
    table.add(ROOT + 2, os.getpid(), "worker:3")
    trees = [ProcessTree(ROOT, OURS), ProcessTree(ROOT + 1, THEIRS)]
    table.add(1, os.getpid(), marker)
    later = ProcessTree(ROOT + 2, "worker:3")
    assert all(1 in tree.scan() for tree in trees)
    assert 1 not in later.scan()


def test_the_marker_of_a_tree_that_is_gone_protects_nobody(table: Table) -> None:
    table.add(ROOT + 1, os.getpid(), THEIRS)
    tree, neighbour = ProcessTree(ROOT, OURS), ProcessTree(ROOT + 1, THEIRS)
    table.add(1, os.getpid(), THEIRS)
    assert tree.scan() == [ROOT]
    neighbour.unregister()
    assert 1 in tree.scan()


def test_the_root_of_another_tree_is_no_orphan(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(1, os.getpid(), None)
    other = ProcessTree(1, THEIRS)
    assert tree.scan() == [ROOT]
    other.unregister()
    assert 1 in tree.scan()


def test_an_orphan_may_have_the_number_of_whoever_was_there_before(table: Table) -> None:
    table.add(1, os.getpid(), None)
    tree = ProcessTree(ROOT, OURS)
    assert tree.scan() == [ROOT]
    table.end(1)
    table.add(1, os.getpid(), "forged")  # reused
    assert set(tree.scan()) == {ROOT, 1}


def test_only_a_new_child_that_is_no_root_can_be_a_template_s_fork(table: Table) -> None:
    before, gone, stranger, root, fork = range(1, 6)
    table.add(before, os.getpid())
    table.add(gone, os.getpid())
    with tree_module.announced(THEIRS) as may_be_it:
        table.end(gone)
        table.add(gone, os.getpid())  # another process has its number
        table.add(stranger, before)
        table.add(root, os.getpid())
        ProcessTree(root, OURS)
        table.add(fork, os.getpid())
        assert [pid for pid in (before, gone, stranger, root, fork) if may_be_it(pid)] == [
            gone,
            fork,
        ]


def test_a_template_s_fork_is_found_though_a_child_ends_while_the_children_are_read(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tree_module.announced(THEIRS) as may_be_it:
        table.add(1, os.getpid())
        monkeypatch.setattr(tree_module, "children_of", lambda pid: set[int]())
        assert may_be_it(1)


def test_every_pid_of_every_tree_is_known_until_it_is_forgotten(table: Table) -> None:
    table.add(ROOT + 1, os.getpid(), THEIRS)
    table.add(1, ROOT + 1)
    tree, neighbour = ProcessTree(ROOT, OURS), ProcessTree(ROOT + 1, THEIRS)
    neighbour.scan()
    assert all_pids() == {ROOT, ROOT + 1, 1}
    tree.unregister()
    assert all_pids() == {ROOT + 1, 1}


def test_the_number_of_a_dead_member_may_be_a_strangers(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(1, ROOT)
    tree.scan()
    table.end(1)
    table.add(1, 77, THEIRS)  # reused
    table.add(2, 1, THEIRS)
    tree.kill()
    assert {pid for pid, _ in table.signals} == {ROOT}


def test_a_chain_of_forks_each_dead_when_it_is_asked_for_is_not_gone(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, hops = ProcessTree(ROOT, OURS), iter(range(1, 6))
    table.end(ROOT)
    table.add(1, os.getpid())

    def read_before_the_hop(pid: int) -> set[int]:
        found = set(table.children.get(pid, ()))
        if pid == os.getpid() and (hop := next(hops, None)):
            table.hop(hop, to=hop + 1)
        return found

    monkeypatch.setattr(tree_module, "children_of", read_before_the_hop)
    for _ in range(5):
        assert not tree.is_gone()
    assert tree.scan() == [6]
    assert tree.pids() == {ROOT, 1, 2, 3, 4, 5, 6}


def test_a_tree_is_gone_when_nobody_lives_and_nobody_came(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(1, ROOT)
    table.end(ROOT)
    table.zombies.add(1)
    assert [tree.is_gone(), tree.is_gone(), tree.is_gone()] == [False, True, True]
    assert table.collected == [1]
    assert tree.pids() == {ROOT, 1}  # a device may list it for a moment longer


def test_a_runner_is_gone_when_two_looks_in_a_row_say_so_and_it_ended_itself() -> None:
    looks = iter([(True, None), (True, 0), (False, 0), (True, 0), (True, 0), (True, 0)])
    child = SimpleNamespace(exitcode=None, ended=anyio.Event())

    def look() -> bool:
        gone, child.exitcode = next(looks)
        return gone

    child.tree = SimpleNamespace(is_gone=look, has_newcomers=True)
    anyio.run(ChildProcess.wait_gone, cast(ChildProcess, child))
    assert list(looks) == [(True, 0)]


@pytest.mark.parametrize(("has_newcomers", "longest_s"), [(True, 0.01), (False, 0.2)])
def test_a_tree_that_still_grows_is_scanned_without_longer_pauses(
    monkeypatch: pytest.MonkeyPatch, has_newcomers: bool, longest_s: float
) -> None:
    scans, pauses = iter([False] * 8 + [True] * 2), []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(anyio, "sleep", sleep)
    tree = SimpleNamespace(is_gone=lambda: next(scans), has_newcomers=has_newcomers)
    runner = SimpleNamespace(tree=tree, exitcode=0)
    anyio.run(ChildProcess.wait_gone, cast(ChildProcess, runner))
    assert len(pauses) == 8  # none between the two that are the proof
    assert max(pauses) == longest_s


def test_the_end_of_the_root_ends_the_pause_in_which_it_was_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(anyio, "move_on_after", lambda _pause_s: anyio.CancelScope())
    child = SimpleNamespace(exitcode=None, ended=anyio.Event())
    child.tree = SimpleNamespace(is_gone=lambda: child.exitcode is not None, has_newcomers=False)

    async def test() -> None:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ChildProcess.wait_gone, cast(ChildProcess, child))
                await anyio.wait_all_tasks_blocked()
                child.exitcode = 0
                child.ended.set()

    anyio.run(test)


def test_a_number_that_another_child_of_ours_has_by_now_is_not_collected(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(1, ROOT)
    tree.scan()
    table.end(1)  # its own parent collected it
    table.add(1, os.getpid(), THEIRS)
    runner = ProcessTree(1, THEIRS)
    table.zombies.add(1)
    tree.scan()
    assert table.collected == []
    assert 1 in runner.pids()


def test_a_reused_number_inside_the_tree_is_the_new_process(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(1, ROOT)
    tree.scan()
    table.end(1)
    table.add(1, ROOT)
    assert set(tree.scan()) == {ROOT, 1}


def test_whoever_appears_after_the_kill_is_killed_too(table: Table) -> None:
    tree = ProcessTree(ROOT, OURS)
    tree.kill()
    table.signals.clear()
    table.add(1, ROOT)
    tree.scan()
    assert (1, signal.SIGKILL) in table.signals


@pytest.mark.parametrize("end", [ProcessTree.terminate, ProcessTree.kill])
def test_descendants_are_recorded_before_their_parents_die(
    table: Table, monkeypatch: pytest.MonkeyPatch, end: Callable[[ProcessTree], None]
) -> None:
    tree = ProcessTree(ROOT, OURS)
    table.add(ROOT + 1, os.getpid(), THEIRS)
    neighbour = ProcessTree(ROOT + 1, THEIRS)
    table.add(1, ROOT, THEIRS)  # with a stolen marker, adoption would not tell whose it is
    monkeypatch.setattr(os, "getpgid", lambda pid: pid)
    monkeypatch.setattr(os, "killpg", lambda pid, number: table.end(pid))
    end(tree)
    assert tree.scan() == [1]
    assert end is ProcessTree.terminate or (1, signal.SIGKILL) in table.signals
    assert neighbour.root not in tree.pids()


def test_our_own_group_is_never_signalled(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: groups.append(pid))
    ProcessTree(ROOT, OURS).terminate()  # before its setsid
    assert groups == []
    assert table.signals == [(ROOT, signal.SIGTERM)]


@pytest.mark.parametrize("end", [ProcessTree.terminate, ProcessTree.kill])
def test_a_group_is_a_strangers_once_its_leader_was_collected(
    table: Table, monkeypatch: pytest.MonkeyPatch, end: Callable[[ProcessTree], None]
) -> None:
    groups: list[int] = []
    monkeypatch.setattr(os, "getpgid", lambda pid: pid)
    monkeypatch.setattr(os, "killpg", lambda pid, number: groups.append(pid))
    tree = ProcessTree(ROOT, OURS)
    table.add(1, ROOT)
    tree.scan()
    table.end(ROOT)
    table.add(ROOT, 77, THEIRS)  # reused
    end(tree)
    assert groups == []
    assert {pid for pid, _ in table.signals} == {1}
