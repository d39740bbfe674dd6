"""Find and end what a killed stack left behind.

Normally there is nothing: the children die with us (PR_SET_PDEATHSIG). What remains (a grandchild,
a child between fork and that call) is found in two ways: by the record of pid, start time and boot
id that we keep per child, and by the marker that each child and its children carry in their
environment. Both are used under the lock of the state folder only: what is found has no manager.
"""

from pathlib import Path

import psutil

from cli.errors import StackError
from cli.processes import os_process
from cli.processes.child import Child
from cli.state_dir import StateDir
from shared.linux import proc

# The variable with the state folder's path, which the process manager gives to every child.
MARKER = "DREAMFORGE_STACK"
_FILE = "children.json"


def record_children(home: StateDir, children: dict[str, Child]) -> None:
    """Write down what runs, so that the next start can find it."""
    entries = {name: [child.pid, child.start_ticks] for name, child in children.items()}
    home.write(_FILE, {"boot_id": _boot_id(), "children": entries})


def find(home: StateDir) -> set[psutil.Process]:
    """Every process of an earlier stack on this folder that still lives."""
    return _recorded(home) | os_process.with_environ(MARKER, str(home.path))


def end_all(home: StateDir) -> int:
    """End them with their descendants; returns how many. Call it under the lock only."""
    everyone = set[psutil.Process]().union(*map(os_process.family, find(home)))
    left = os_process.kill(everyone)
    if left:
        pids = ", ".join(str(pid) for pid in sorted(process.pid for process in left))
        raise StackError(f"processes of an earlier start on {home.path} do not end: {pids}")
    return len(everyone)


def _recorded(home: StateDir) -> set[psutil.Process]:
    record = home.read(_FILE)
    if record.get("boot_id") != _boot_id():
        return set()
    return {
        process
        for pid, start_ticks in record.get("children", {}).values()
        if (process := os_process.find_living(pid))
        and os_process.start_ticks(process) == start_ticks
        and _carries_marker(process, home)
    }


def _carries_marker(process: psutil.Process, home: StateDir) -> bool:
    try:
        return proc.environment_value(process.pid, MARKER) == str(home.path)
    except PermissionError:
        # A root without CAP_SYS_PTRACE may not look into the database that it gave to `nobody`;
        # pid, start time and boot id name it without doubt.
        return True


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
