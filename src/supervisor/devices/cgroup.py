"""Memory of the host, or of our control group (v2)."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """The most that this worker may use."""
    limit = _number("memory.max")
    total = int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit)


def free_bytes() -> int:
    """What the host has free, or what the control group leaves if that is less."""
    available = int(psutil.virtual_memory().available)
    limit, current = _number("memory.max"), _number("memory.current")
    if limit is None or current is None:
        return available
    return max(0, min(available, limit - current))


def oom_kills() -> int:
    """How many processes of our control group the kernel has killed for lack of memory."""
    path = _own_group()
    if path is None:
        return 0
    try:
        lines = (path / "memory.events").read_text().splitlines()
    except OSError:
        return 0
    counters = dict(line.split() for line in lines)
    return int(counters.get("oom_kill", 0))


def _number(name: str) -> int | None:
    """A number from our control group; None where there is no limit or no such file."""
    path = _own_group()
    if path is None:
        return None
    try:
        text = (path / name).read_text().strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


def _own_group() -> Path | None:
    try:
        entries = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((entry[3:] for entry in entries if entry.startswith("0::")), None)
    return None if own is None else _CGROUP / own.lstrip("/")
