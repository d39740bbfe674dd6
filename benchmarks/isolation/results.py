"""The figures of one run, and the machine that they are of."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

RESIDENT, CELERY, TEMPLATE, SPAWN = SIDES = ("resident", "celery", "template", "spawn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side took for one row, from the first request to the last end, in seconds.

    `cpu_s` is of all processes of the side; of the Celery worker without its broker and store,
    which are those of a stack.
    """

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRow:
    """The turns of a row, by round and side. In some rounds a side may be missing."""

    title: str
    pictures: int
    wanted: str
    rounds: list[dict[str, Turn]] = field(default_factory=list)

    def seconds(self, side: str) -> float:
        """Wall seconds a picture: the median of the rounds."""
        return self._median(side, lambda turns: turns[side].wall_s) / self.pictures

    def ratio(self, side: str) -> float:
        """To the resident's wall seconds in the same round: the median of the rounds."""
        return self._median(side, lambda turns: turns[side].wall_s / turns[RESIDENT].wall_s)

    def cpu_seconds(self, side: str) -> float:
        """CPU seconds a picture: the median of the rounds."""
        return self._median(side, lambda turns: turns[side].cpu_s) / self.pictures

    def cpu_ratio(self, side: str) -> float:
        """To the resident's CPU seconds in the same round: the median of the rounds."""
        return self._median(side, lambda turns: turns[side].cpu_s / turns[RESIDENT].cpu_s)

    def _median(self, side: str, read: Callable[[dict[str, Turn]], float]) -> float:
        return statistics.median(read(turns) for turns in self.rounds if side in turns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Creates:
    """Creates a second of so many clients, ours and of bare FastAPI with one INSERT."""

    clients: int
    ours: float
    bare: float


@dataclass(kw_only=True, slots=True)
class Results:
    """`idle_s`: create to end of one job, by side and round. Memory is by side, in MiB: private of
    the process that waits for work, and what the templates hold with their part of what they share.
    """

    machine: Mapping[str, str]
    rows: list[MeasuredRow] = field(default_factory=list)
    idle_s: list[dict[str, float]] = field(default_factory=list)
    waiting_mib: dict[str, float] = field(default_factory=dict)
    templates_mib: float = 0.0
    creates: list[Creates] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    took_s: float = 0.0

    def idle_ms(self, side: str) -> float:
        """Create to end on an idle worker: the median of the rounds."""
        return statistics.median(turns[side] for turns in self.idle_s) * 1000

    def idle_more_ms(self, side: str) -> float:
        """The same less the resident's of the same round."""
        return statistics.median(turns[side] - turns[RESIDENT] for turns in self.idle_s) * 1000


_results = TypeAdapter(Results)


def read(path: Path) -> Results:
    """What `write` wrote."""
    return _results.validate_json(path.read_bytes())


def write(path: Path, results: Results) -> None:
    """Keep the figures of a run, each turn of each round."""
    path.write_bytes(_results.dump_json(results, indent=1) + b"\n")


def describe_machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
