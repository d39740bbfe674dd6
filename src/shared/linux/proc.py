"""What psutil does not read of `/proc`, or not fast enough."""

import os
from contextlib import suppress
from pathlib import Path

# What reading /proc raises of a process that has ended.
_GONE = (FileNotFoundError, ProcessLookupError)


def lists_children(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel lists a process's children (CONFIG_PROC_CHILDREN).

    Without that list no process of a runner's tree is seen, and each tree would pass for gone.
    """
    return (proc / "self" / "task" / str(os.getpid()) / "children").exists()


def children_of(pid: int) -> set[int]:
    """Direct children of a process, over all of its threads; empty when it is gone.

    Raises `OSError` when they cannot be read for another reason: an empty answer would then pass
    for a proof that there are none.
    """
    children: set[int] = set()
    with suppress(*_GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(*_GONE):  # a thread that ended between the listing and the read
                children.update(map(int, (task / "children").read_text(encoding="utf-8").split()))
    return children


def environment_value(pid: int, name: str) -> str | None:
    """One variable of the environment that a process was started with; None without it.

    Raises `PermissionError` where the kernel hides it. `psutil.Process.environ` is not enough: it
    stops at the first empty entry, and a server that shows its state as its title writes the title
    over the begin of its environment.
    """
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except _GONE:
        return None
    prefix = os.fsencode(name) + b"="
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None
