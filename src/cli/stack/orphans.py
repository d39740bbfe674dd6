"""Finding and ending what a killed stack left behind.

Normally there is nothing: the children die with us (PR_SET_PDEATHSIG). What remains (a grandchild,
a child between fork and that call) is found in two ways: the note of (pid, start time, boot id)
that we keep per child, and the marker that each child and its children carry in their environment.
Either is only used under the lock of the state folder, so what carries its marker has no manager.
"""

from __future__ import annotations

from cli.errors import StackError
from cli.stack import processes
from cli.stack.processes import Proc
from cli.state_dir import StateDir

MARKER = "DREAMFORGE_STACK"
_FILE = "children.json"


def record_children(home: StateDir, children: dict[str, Proc]) -> None:
    """Write down who runs, so that the next start can find them."""
    entries = {name: [proc.pid, proc.start_ticks] for name, proc in children.items()}
    home.write(_FILE, {"boot_id": processes.boot_id(), "children": entries})


def find(home: StateDir) -> set[Proc]:
    """Every process of an earlier stack on this folder that still lives."""
    return _noted(home) | processes.with_environ(MARKER, str(home.path))


def end_all(home: StateDir) -> int:
    """End them with their descendants; returns how many. Call it under the lock only."""
    roots = find(home)
    everyone = roots.union(*(processes.family(proc.pid) for proc in roots))
    left = processes.kill(everyone)
    if left:
        pids = ", ".join(str(proc.pid) for proc in sorted(left))
        raise StackError(f"processes of an earlier start on {home.path} do not end: {pids}")
    return len(everyone)


def _noted(home: StateDir) -> set[Proc]:
    known = home.read(_FILE)
    if known.get("boot_id") != processes.boot_id():
        return set()
    noted = {Proc(int(pid), int(ticks)) for pid, ticks in known.get("children", {}).values()}
    return {proc for proc in noted if processes.alive(proc) and _carries_marker(proc, home)}


def _carries_marker(proc: Proc, home: StateDir) -> bool:
    try:
        return processes.environ_value(proc.pid, MARKER) == str(home.path)
    except PermissionError:
        # A root without CAP_SYS_PTRACE may not look into the database that it gave to nobody;
        # pid, start time and boot id name it without doubt.
        return True
