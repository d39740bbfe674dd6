"""Memory of the host, or of our control group (v2)."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """The most that this worker may use."""
    total = int(psutil.virtual_memory().total)
    limit = _number("memory.max")
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
    events = _read("memory.events") or ""
    counters = dict(line.split() for line in events.splitlines())
    return int(counters.get("oom_kill", 0))


def _number(name: str) -> int | None:
    """A number of our control group; None where there is no limit or no such file."""
    text = _read(name)
    return None if text is None or text == "max" else int(text)


def _read(name: str) -> str | None:
    """A file of our control group; None where there is no group or no such file."""
    try:
        for entry in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if entry.startswith("0::"):
                return (_CGROUP / entry[3:].lstrip("/") / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return None
