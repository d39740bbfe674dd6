"""Memory of the host, and what the control groups of this process leave of it.

A limit may be set on our own group or on any group above it, and the tightest one counts. Pages of
files that were not used lately count as used, and the kernel takes them back before it kills: they
are free. Both versions of control groups are read; a host has one of them for memory.
Kernel documentation: admin-guide/cgroup-v2 (Memory), admin-guide/cgroup-v1/memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

# Version 1 has no word for "no limit", but a number that no machine has.
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """What the files of a version are called; `folder` is where its memory groups are mounted."""

    folder: str
    limits: tuple[str, ...]
    current: str
    inactive: str  # the line of memory.stat: of pages of files, own and below
    kills: str


_V2 = _Names(
    folder="",
    # Above `memory.high` a process is slowed until it hardly runs.
    limits=("memory.max", "memory.high"),
    current="memory.current",
    inactive="inactive_file",
    kills="memory.events",
)
_V1 = _Names(
    folder="memory",
    limits=("memory.limit_in_bytes",),
    current="memory.usage_in_bytes",
    inactive="total_inactive_file",
    kills="memory.oom_control",
)


class MemoryGroups:
    """The memory groups of a process, as `own` (`/proc/<pid>/cgroup`) names them below `mount`."""

    def __init__(
        self, own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._own = own
        self._mount = mount

    def total_bytes(self) -> int:
        """The most that this process may use."""
        limits = [limit for names, group in self._groups() for limit in _limits(group, names)]
        return min([int(psutil.virtual_memory().total), *limits])

    def free_bytes(self) -> int:
        """What the host has free, or what the tightest limit leaves if that is less."""
        left = [int(psutil.virtual_memory().available)]
        for names, group in self._groups():
            if limits := _limits(group, names):  # else not a file more: this is read often
                used = (_number(group / names.current) or 0) - _reclaimable(group, names)
                left.append(min(limits) - max(0, used))
        return max(0, min(left))

    def oom_kills(self) -> int:
        """How many processes of our own group the kernel has killed for lack of memory."""
        for names, group in self._groups():
            return _counters(group / names.kills).get("oom_kill", 0)
        return 0

    def kills_together(self) -> str | None:
        """The group whose processes the kernel kills all at once; None where it kills one.

        Then one step that needs too much ends the worker and its other runners too.
        """
        for _, group in self._groups():
            if _text(group / "memory.oom.group") == "1":
                return str(group)
        return None

    def _groups(self) -> Iterator[tuple[_Names, Path]]:
        """Our own group, then those above it, up to the mount."""
        for line in (_text(self._own) or "").splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controllers and "memory" not in controllers.split(","):
                continue
            names = _V1 if controllers else _V2
            root = self._mount / names.folder
            # A group that is outside of this container's view begins with `..`.
            inside = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
            for depth in range(len(inside), -1, -1):
                group = root.joinpath(*inside[:depth])
                if _text(group / names.current) is not None:
                    yield names, group


def _limits(group: Path, names: _Names) -> list[int]:
    limits = [_number(group / name) for name in names.limits]
    return [limit for limit in limits if limit is not None and limit < _NO_LIMIT_BYTES]


def _reclaimable(group: Path, names: _Names) -> int:
    return _counters(group / "memory.stat").get(names.inactive, 0)


def _counters(path: Path) -> dict[str, int]:
    pairs = (line.partition(" ") for line in (_text(path) or "").splitlines())
    return {name: int(number) for name, _, number in pairs if number.isdecimal()}


def _number(path: Path) -> int | None:
    """A number; None for "max", or where there is no such file."""
    text = _text(path)
    return int(text) if text is not None and text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        # The name of a group is whatever bytes its maker took.
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return None


_OURS = MemoryGroups()
total_bytes = _OURS.total_bytes
free_bytes = _OURS.free_bytes
oom_kills = _OURS.oom_kills
kills_together = _OURS.kills_together
