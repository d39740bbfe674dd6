"""A control group for each step: the kernel bounds its memory and its processes, and ends it alone.

Only groups of version 2, and only below a group that was delegated to this worker: the root of a
container that may write its groups, a systemd unit with `Delegate=yes`, or the root of a host
without a manager of groups. Nothing else is touched: a manager that finds groups which it did not
make may remove them. Kernel documentation: admin-guide/cgroup-v2.

    <base>                          delegated; a limit of its own counts as before
      dreamforge.services           what was in the base: the kernel allows a group that has groups
                                    with controllers below it no process
      dreamforge.<tag>.<worker>     memory.max leaves the services their room
        idle                        templates, and runners that wait for a step
        <serial>                    one runner with a step, and all that it starts

A template holds a model's memory, and the runners that it forks share it: the kernel counts memory
where it was first used, so a step's group counts what the step itself takes. The group of a step
outlives its processes until its counters were read, and is removed then. What a killed worker left
is killed and removed at the next start.
"""

import itertools
import logging
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from supervisor.processes.group_files import GroupFiles, KernelGroups, kill_all, pids_of
from supervisor.processes.orphans import worker_lives
from supervisor.processes.step_group import StepGroup
from supervisor.processes.worker_mark import marked_worker

log = logging.getLogger(__name__)

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

_PREFIX = "dreamforge."
SERVICES = f"{_PREFIX}services"
CONTROLLERS = ("memory", "pids")
# Threads and processes of one step. Above the bound that ends a runner (`MAX_THREADS`), so that it
# is ended for a reason that is said, where it gets so far.
MAX_TASKS = 4096
# A step may use its slot's share of the memory, or this many times its need if that is more: a
# figure that was estimated too low must not end a step that has room.
_MARGIN = 1.5
# Processes that appear while a group is emptied.
_VACATE_ROUNDS = 50
# SIGKILL needs no cooperation; what is there after this waits on hardware.
_EMPTY_S = 5.0


class NoGroups(Exception):
    """This worker can make no control groups; the message says why."""


def find_base(files: GroupFiles | None = None, *, own: Path = OWN, mount: Path = MOUNT) -> Path:
    """The group below which this process may make groups. Changes nothing. Raises `NoGroups`."""
    files = files or KernelGroups()
    try:
        group = _own_group(files, own, mount)
        if group.name == SERVICES:  # of a worker before this one
            candidates = [group.parent]
        else:
            candidates = [group] if group == mount else [group, group.parent]
        reasons = [_unfit(files, base, mount) for base in candidates]
        # In a parent there must be no process that we would have to move.
        if len(reasons) == 2 and reasons[1] is None and files.read(group.parent, "cgroup.procs"):
            reasons[1] = f"{group.parent} has processes of others"
    except OSError as error:
        raise NoGroups(f"control groups cannot be read: {error}") from error
    for base, reason in zip(candidates, reasons, strict=True):
        if reason is None:
            return base
    raise NoGroups(reasons[0])


def _own_group(files: GroupFiles, own: Path, mount: Path) -> Path:
    lines = own.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None or not files.has(mount, "cgroup.controllers"):
        raise NoGroups("the host has no control groups of version 2")
    parts = PurePosixPath(path).parts[1:]
    if ".." in parts:
        raise NoGroups("the worker's control group is outside of what its container shows")
    return mount.joinpath(*parts)


def _unfit(files: GroupFiles, base: Path, mount: Path) -> str | None:
    """Why groups cannot be made below `base`; None where they can."""
    has = files.read(base, "cgroup.controllers").split()
    if missing := [name for name in CONTROLLERS if name not in has]:
        return f"control group {base} has no controller of {' and '.join(missing)}"
    if base != mount and not files.is_delegated(base):
        return f"control group {base} is not delegated to this worker"
    if not files.is_writable(base):
        return f"control group {base} may not be written"
    return None


class ControlGroups:
    """The groups of one worker."""

    def __init__(self, files: GroupFiles, base: Path, folder: Path, most_bytes: int) -> None:
        self.base = base
        self.most_bytes = most_bytes  # for templates and all steps together
        self._files = files
        self.folder = folder
        self._idle = folder / "idle"
        self._serials = itertools.count(1)
        self._groups: list[StepGroup] = []  # not removed yet

    def adopt(self, pid: int) -> None:
        """Put a process that has no step yet beside the others."""
        try:
            self._files.write(self._idle, "cgroup.procs", str(pid))
        except ProcessLookupError:  # it has ended
            return
        except OSError as error:
            log.error("process %d gets no control group: %s", pid, error)

    def open_step(self, pid: int, *, need_bytes: int, slots: int) -> StepGroup | None:
        """A group with this process in it, before its step begins.

        None, with a line in the log, where the kernel makes none: the step goes on in `idle`.
        """
        self._groups = [each for each in self._groups if not (each.released and each.remove())]
        limit_bytes = max(self.most_bytes // slots, int(need_bytes * _MARGIN))
        limit_bytes = min(limit_bytes, self.most_bytes)
        folder = self.folder / str(next(self._serials))
        group = StepGroup(self._files, folder, limit_bytes)
        try:
            self._files.make(folder)
            self._files.write(folder, "memory.max", str(limit_bytes))
            self._files.write(folder, "memory.oom.group", "1")
            self._files.write(folder, "pids.max", str(MAX_TASKS))
            self._files.write(folder, "cgroup.procs", str(pid))
        except OSError as error:
            if not isinstance(error, ProcessLookupError):  # it has ended, and that is reported
                log.error("the step of process %d has no control group: %s", pid, error)
            group.remove()
            return None
        self._groups.append(group)
        return group

    def close(self) -> None:
        """Remove all groups of this worker, when its children are gone."""
        _remove_tree(self._files, self.folder)


def open_groups(
    lock_dir: Path,
    mark: str,
    most_bytes: int,
    files: GroupFiles | None = None,
    *,
    own: Path = OWN,
    mount: Path = MOUNT,
) -> ControlGroups:
    """Make the groups of the worker `mark`, and remove those of dead workers.

    Moves every process of the base, this one among them, into a group below it. `most_bytes` is for
    all steps together. Raises `NoGroups`.
    """
    files = files or KernelGroups()
    base = find_base(files, own=own, mount=mount)
    folder = base / f"{_PREFIX}{mark.replace(':', '.')}"
    try:
        _remove_leftovers(files, base, lock_dir)
        if files.has(base, "cgroup.type"):  # the root of a host has none, and may have both
            _vacate(files, base)
            _kill_one_by_one(files, base, mount)
        _enable(files, base)
        files.make(folder)
        _enable(files, folder)
        files.write(folder, "memory.max", str(most_bytes))
        groups = ControlGroups(files, base, folder, most_bytes)
        files.make(folder / "idle")
    except OSError as error:
        raise NoGroups(f"control group {base} cannot be used: {error}") from error
    return groups


def _vacate(files: GroupFiles, base: Path) -> None:
    services = base / SERVICES
    files.make(services)
    for _ in range(_VACATE_ROUNDS):
        pids = pids_of(files, base)
        if not pids:
            return
        for pid in pids:
            if pid == 0:
                raise NoGroups(f"control group {base} has processes that are not seen from here")
            with suppress(ProcessLookupError):  # it has ended
                files.write(services, "cgroup.procs", str(pid))
    raise NoGroups(f"processes keep appearing in control group {base}")


def _kill_one_by_one(files: GroupFiles, base: Path, mount: Path) -> None:
    """In a container, take back that the kernel kills all of its processes together.

    Kubernetes sets that for every container. Where the file may not be written, it stays, and the
    worker says so (`devices.cgroup.kills_together`).
    """
    if base == mount and files.has(base, "memory.oom.group"):
        with suppress(OSError):
            files.write(base, "memory.oom.group", "0")


def _enable(files: GroupFiles, group: Path) -> None:
    files.write(group, "cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))


def _remove_leftovers(files: GroupFiles, base: Path, lock_dir: Path) -> None:
    """Kill and remove what dead workers of this lock folder left."""
    for folder in files.below(base):
        if not folder.name.startswith(_PREFIX):
            continue
        marker = folder.name.removeprefix(_PREFIX).replace(".", ":", 1)
        worker = marked_worker(lock_dir, marker)
        if worker is not None and not worker_lives(lock_dir, worker):
            log.info("removing control group %s: its worker is gone", folder)
            _remove_tree(files, folder)


def _remove_tree(files: GroupFiles, folder: Path) -> None:
    """Kill what is in the group, wait until it has ended, and remove all below it and itself."""
    try:
        groups = [*files.below(folder), folder]
    except FileNotFoundError:
        return
    for group in groups:
        kill_all(files, group)
    deadline = time.monotonic() + _EMPTY_S
    while any(pids_of(files, group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.01)
    for group in groups:
        try:
            files.remove(group)
        except OSError as error:
            log.error("control group %s cannot be removed: %s", group, error.strerror)
