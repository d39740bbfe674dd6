"""Control groups of steps: where they may be made, what they hold, and what is left of them.

What our code does with them is tried on a likeness, and on the kernel's where this process may make
groups. What the kernel does is in `tests/integration/supervisor/test_control_groups.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.control_groups import FAKE_MOUNT, FakeGroups, World, world

from shared.linux.file_lock import FileLock
from supervisor.processes.control_groups import (
    MAX_TASKS,
    SERVICES,
    ControlGroups,
    NoGroups,
    find_base,
    open_groups,
)
from supervisor.processes.worker_mark import worker_lock, worker_mark

UNIT = FAKE_MOUNT / "system.slice" / "forge.service"
MOST = 1 << 30


def base_of(tmp_path: Path, files: FakeGroups, own: str) -> Path:
    (tmp_path / "own").write_text(own)
    return find_base(files, own=tmp_path / "own", mount=FAKE_MOUNT)


# Where groups may be made -------------------------------------------------------------------------


def test_the_root_of_a_container_is_the_base(tmp_path: Path) -> None:
    assert base_of(tmp_path, FakeGroups(), "0::/\n") == FAKE_MOUNT


def test_a_delegated_unit_is_the_base_and_stays_it_for_the_next_worker(tmp_path: Path) -> None:
    files = FakeGroups()
    files.place(UNIT / SERVICES, 7)
    files.delegated.add(UNIT)
    for own in ("/system.slice/forge.service", f"/system.slice/forge.service/{SERVICES}"):
        assert base_of(tmp_path, files, f"1:name=systemd:/x\n0::{own}\n") == UNIT


def test_a_group_that_systemd_made_for_the_main_process_has_its_unit_as_base(
    tmp_path: Path,
) -> None:
    """`DelegateSubgroup=`: the process is in a group without controllers, the unit is empty."""
    files = FakeGroups()
    files.place(UNIT)
    files.place(UNIT / "main", 7, controllers=False)
    files.delegated |= {UNIT, UNIT / "main"}
    assert base_of(tmp_path, files, "0::/system.slice/forge.service/main\n") == UNIT
    files.place(UNIT, 8)  # of somebody else, who would have to be moved
    with pytest.raises(NoGroups, match="no controller of memory and pids"):
        base_of(tmp_path, files, "0::/system.slice/forge.service/main\n")


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ("4:memory:/x\n8:pids:/\n", "no control groups of version 2"),
        ("", "no control groups of version 2"),
        ("0::/../x\n", "outside of what its container shows"),
        ("0::/user.slice/session-3.scope\n", "session-3.scope is not delegated"),
        ("0::/read-only\n", "may not be written"),
        ("0::/bare\n", "no controller of memory and pids"),
        ("0::/gone\n", "cannot be read"),
    ],
)
def test_where_no_group_may_be_made_the_reason_is_said(
    tmp_path: Path, own: str, reason: str
) -> None:
    files = FakeGroups()
    files.place(FAKE_MOUNT / "user.slice" / "session-3.scope", 7)
    files.place(FAKE_MOUNT / "read-only", 8)
    files.place(FAKE_MOUNT / "bare", 9, controllers=False)
    files.delegated |= {FAKE_MOUNT / "read-only", FAKE_MOUNT / "bare"}
    files.read_only.add(FAKE_MOUNT / "read-only")
    before = {group: dict(content) for group, content in files.files.items()}
    files.place(FAKE_MOUNT, 1)
    with pytest.raises(NoGroups, match=reason):
        base_of(tmp_path, files, own)
    assert files.files == before, "looking has changed something"


def test_a_host_without_the_controllers_has_no_groups(tmp_path: Path) -> None:
    with pytest.raises(NoGroups, match="no controller of pids"):
        base_of(tmp_path, FakeGroups(controllers="cpu memory"), "0::/\n")
    with pytest.raises(NoGroups, match="may not be written"):
        files = FakeGroups()
        files.read_only.add(FAKE_MOUNT)
        base_of(tmp_path, files, "0::/\n")


def test_a_container_whose_groups_end_all_at_once_is_told_not_to(tmp_path: Path) -> None:
    files = FakeGroups()
    files.files[FAKE_MOUNT]["memory.oom.group"] = "1"
    files.place(FAKE_MOUNT, 1)
    (tmp_path / "own").write_text("0::/\n")
    open_groups(tmp_path, worker_mark(tmp_path, uuid4()), MOST, files,
                own=tmp_path / "own", mount=FAKE_MOUNT)  # fmt: skip
    assert files.files[FAKE_MOUNT]["memory.oom.group"] == "0"


def test_at_the_root_of_a_host_no_process_is_moved(tmp_path: Path) -> None:
    files = FakeGroups(real_root=True)
    files.place(FAKE_MOUNT, 1, 2)
    (tmp_path / "own").write_text("0::/\n")
    open_groups(tmp_path, worker_mark(tmp_path, uuid4()), MOST, files,
                own=tmp_path / "own", mount=FAKE_MOUNT)  # fmt: skip
    assert files.procs == {1: FAKE_MOUNT, 2: FAKE_MOUNT}


def test_processes_that_are_not_seen_from_here_are_not_moved(tmp_path: Path) -> None:
    files = FakeGroups()
    files.place(FAKE_MOUNT, 1, 0)
    (tmp_path / "own").write_text("0::/\n")
    with pytest.raises(NoGroups, match="not seen from here"):
        open_groups(tmp_path, worker_mark(tmp_path, uuid4()), MOST, files,
                    own=tmp_path / "own", mount=FAKE_MOUNT)  # fmt: skip


# What is done with them ---------------------------------------------------------------------------


@pytest.fixture(params=["fake", "kernel"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world(request.param, tmp_path) as place:
        yield place


def opened(place: World, lock_dir: Path, mark: str | None = None) -> ControlGroups:
    mark = mark or worker_mark(lock_dir, uuid4())
    return open_groups(lock_dir, mark, MOST, place.files, own=place.own, mount=place.mount)


def group_of(place: World, groups: ControlGroups, pid: int) -> Path:
    (folder,) = [
        group
        for below in [groups.base, *place.files.below(groups.base)]
        for group in [below, *place.files.below(below)]
        if str(pid) in place.files.read(group, "cgroup.procs").split()
    ][:1]
    return folder.relative_to(groups.base)


def test_a_runner_waits_beside_the_templates_and_works_in_its_own_group(
    place: World, tmp_path: Path
) -> None:
    groups = opened(place, tmp_path)
    pid, other = place.start(), place.start()
    assert group_of(place, groups, pid) == Path(SERVICES)
    groups.adopt(pid)
    assert group_of(place, groups, pid).name == "idle"
    step = groups.open_step(pid, need_bytes=0, slots=2)
    second = groups.open_step(other, need_bytes=0, slots=2)
    assert step and second
    assert step.pids() == {pid}
    assert second.pids() == {other}
    folder = groups.base / group_of(place, groups, pid)
    values = [place.files.read(folder, name).strip() for name in
              ("memory.max", "memory.oom.group", "pids.max")]  # fmt: skip
    assert values == [str(MOST // 2), "1", str(MAX_TASKS)]
    assert place.files.read(folder.parent, "memory.max").strip() == str(MOST)
    assert (step.oom_kills(), step.hit_limit()) == (0, False)
    groups.close()
    assert not place.files.has(folder.parent, "cgroup.procs")
    groups.close()  # nothing is there any more


@pytest.mark.parametrize(
    ("need_bytes", "slots", "limit_bytes"),
    [
        (0, 1, MOST),
        (0, 4, MOST // 4),
        (MOST // 2, 4, MOST * 3 // 4),
        (MOST // 8, 4, MOST // 4),
        (MOST, 4, MOST),
    ],
)
def test_a_step_may_use_its_share_or_its_need_with_a_margin(
    tmp_path: Path, need_bytes: int, slots: int, limit_bytes: int
) -> None:
    with world("fake", tmp_path) as place:
        step = opened(place, tmp_path).open_step(place.start(), need_bytes=need_bytes, slots=slots)
        assert step is not None
        assert step.limit_bytes == limit_bytes


def test_a_group_is_removed_when_its_last_process_has_ended(place: World, tmp_path: Path) -> None:
    groups = opened(place, tmp_path)
    pid = place.start()
    step = groups.open_step(pid, need_bytes=0, slots=1)
    assert step is not None
    folder = groups.base / group_of(place, groups, pid)
    step.release()
    assert step.pids() == {pid}, "a group with a process in it cannot be removed"
    step.kill()
    while step.pids():
        continue
    groups.open_step(place.start(), need_bytes=0, slots=1)
    assert not place.files.has(folder, "cgroup.procs")
    assert step.pids() == frozenset()
    assert step.oom_kills() == 0
    groups.close()


def test_a_process_that_has_ended_needs_no_group(place: World, tmp_path: Path) -> None:
    groups = opened(place, tmp_path)
    gone = 2**22 - 7
    groups.adopt(gone)
    assert groups.open_step(gone, need_bytes=0, slots=1) is None
    assert [group.name for group in place.files.below(groups.base)
            if group.name != SERVICES] != [], "the worker's own group"  # fmt: skip
    groups.close()


def test_what_a_dead_worker_left_is_killed_and_removed_and_a_living_one_is_left_alone(
    place: World, tmp_path: Path
) -> None:
    dead, living, elsewhere = uuid4(), uuid4(), uuid4()
    (tmp_path / "other").mkdir()
    lock = FileLock(worker_lock(tmp_path, living))
    marks = [
        worker_mark(tmp_path, dead),
        worker_mark(tmp_path, living),
        worker_mark(tmp_path / "other", elsewhere),
    ]
    steps = []
    for mark in marks:
        # Each finds those of the workers before it; only the first is dead.
        groups = opened(place, tmp_path / "nobody", mark)
        step = groups.open_step(place.start(), need_bytes=0, slots=1)
        assert step is not None
        steps.append(step)
    ours = opened(place, tmp_path)
    left = {group.name for group in place.files.below(ours.base)}
    assert f"dreamforge.{marks[0].replace(':', '.')}" not in left
    assert {f"dreamforge.{mark.replace(':', '.')}" for mark in marks[1:]} <= left
    assert not steps[0].pids()
    assert steps[1].pids()
    assert steps[2].pids()
    lock.remove()
    for mark in marks[1:]:
        folder = tmp_path if mark == marks[1] else tmp_path / "other"
        opened(place, folder).close()
    ours.close()


def test_where_a_group_cannot_be_made_the_step_goes_on_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = FakeGroups()
    files.place(FAKE_MOUNT, 1, 2)
    (tmp_path / "own").write_text("0::/\n")
    groups = open_groups(tmp_path, worker_mark(tmp_path, uuid4()), MOST, files,
                         own=tmp_path / "own", mount=FAKE_MOUNT)  # fmt: skip
    (folder,) = [group for group in files.below(FAKE_MOUNT) if group.name != SERVICES]
    files.read_only.add(folder)
    assert groups.open_step(2, need_bytes=0, slots=1) is None
    assert "the step of process 2 has no control group" in caplog.text


def test_no_signal_goes_to_our_own_process_group() -> None:
    """A process of another namespace is listed as 0, and `kill(0)` would be for us."""
    from supervisor.processes.group_files import kill_all

    files = FakeGroups()
    files.place(FAKE_MOUNT / "group", 0)
    del files.files[FAKE_MOUNT / "group"]["cgroup.kill"]  # a kernel before 5.14
    kill_all(files, FAKE_MOUNT / "group")
    assert os.getpid()
