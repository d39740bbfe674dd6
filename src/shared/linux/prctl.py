"""What the worker process asks of the kernel before it starts anything."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, instead of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_from_runners() -> None:
    """Make our memory and `/proc` entries unreadable to processes of the same user.

    Our environment block of the start still lies in our memory, with the secrets that were taken
    out of `os.environ`; a runner must not be able to read it there.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def lists_children(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel tells a process's children (CONFIG_PROC_CHILDREN).

    Without that nobody of a runner's tree would ever be seen, and each tree would pass for gone.
    """
    return (proc / "self" / "task" / str(os.getpid()) / "children").exists()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
