"""How long a step will hold its slot: drawn from how long others of its kind did. Pure.

A step of the same work (pixels, sampling steps, items) takes what those took. Where fewer than
`ENOUGH` samples have this work, all count, each scaled by a line through them: part of a step's
time grows with the work, and part (loading the model) does not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from statistics import stdev

from shared.db.run_times import Kind, RunTimes
from shared.db.waiting import LineStep

ENOUGH = 5
SAME_WORK = 0.01  # sizes that differ by less than this share are the same
# The spread of fewer samples, as a share of their mean, is not known; then it counts as this.
UNKNOWN_SPREAD = 0.5
# How much faster or slower a whole installation becomes within hours: heat, other programs, other
# prompts. A standard deviation, as a share.
DRIFT = 0.15
LEAST_FACTOR = 0.1
# A stop takes so long after the time limit, at most.
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds from the claim to GO, and from the claim to the end."""

    start_s: float
    held_s: float


class Durations:
    """The samples of each kind, as they apply to a step."""

    def __init__(self, run_times: Mapping[Kind, RunTimes], random: Random) -> None:
        self._run_times = run_times
        self._random = random
        self._samples: dict[tuple[Kind, float], list[Sample]] = {}
        self._errors = {kind: _error_of_mean(times) for kind, times in run_times.items()}
        self._factors: dict[Kind, float] = {}

    def measured(self, holder: LineStep) -> bool:
        """Whether it is known since when this step holds its slot, and how long others did."""
        return holder.held_s is not None and holder.kind in self._run_times

    def begin(self) -> None:
        """Begin a run of the simulation: in it each kind is faster or slower as a whole."""
        drift = self._random.gauss(1, DRIFT)
        for kind, error in self._errors.items():
            self._factors[kind] = max(LEAST_FACTOR, drift * self._random.gauss(1, error))

    def samples(self, step: LineStep) -> list[Sample]:
        """Of a step that waits: each is as likely as the others. Empty: nothing is known."""
        key = (step.kind, step.work)
        if key not in self._samples:
            times = self._run_times.get(step.kind)
            self._samples[key] = [] if times is None else _scaled(times, step.work)
        return self._samples[key]

    def factor(self, step: LineStep) -> float:
        """By which its kind is slower in this run."""
        return self._factors.get(step.kind, 1.0)

    def median_start_s(self, step: LineStep) -> float:
        """From claim to GO; 0 where that is unknown."""
        starts = sorted(sample.start_s for sample in self.samples(step))
        return starts[len(starts) // 2] if starts else 0.0

    def draw_rest(self, step: LineStep) -> float:
        """Of a step that holds a slot: the seconds until it leaves it.

        Only samples that took longer tell of it. Where there is none, it takes up to as long again,
        and not longer than its time limit allows.
        """
        held_s = step.held_s or 0.0
        longer = [sample.held_s for sample in self.samples(step) if sample.held_s > held_s]
        if longer:
            return longer[int(self._random.random() * len(longer))] - held_s
        limit_s = max(step.timeout_s + STOP_S - held_s, 0.0)
        return min(self._random.random() * held_s, limit_s)


def _scaled(times: RunTimes, work: float) -> list[Sample]:
    samples = list(zip(times.work, times.start_seconds, times.seconds, strict=True))
    same = [
        Sample(start_s, seconds)
        for done, start_s, seconds in samples
        if abs(done - work) <= SAME_WORK * work
    ]
    if len(same) >= ENOUGH:
        return same
    fixed, per_work = _line(times)
    expected = fixed + per_work * work
    return [
        Sample(start_s, start_s + (seconds - start_s) * expected / (fixed + per_work * done))
        for done, start_s, seconds in samples
    ]


def _error_of_mean(times: RunTimes) -> float:
    """How far the mean of these samples may be from that of what will come, as a share."""
    fixed, per_work = _line(times)
    shares = [
        (seconds - start_s) / (fixed + per_work * done)
        for done, start_s, seconds in zip(
            times.work, times.start_seconds, times.seconds, strict=True
        )
    ]
    spread: float = stdev(shares) if len(shares) >= ENOUGH else UNKNOWN_SPREAD
    return spread / math.sqrt(len(shares))


def _line(times: RunTimes) -> tuple[float, float]:
    """Seconds after GO as `fixed + per_work * work`, by least squares; neither is negative."""
    points = [
        (work, seconds - start_s)
        for work, start_s, seconds in zip(
            times.work, times.start_seconds, times.seconds, strict=True
        )
    ]
    count = len(points)
    mean_work = sum(work for work, _ in points) / count
    mean_s = max(sum(seconds for _, seconds in points) / count, 1e-9)
    spread = sum((work - mean_work) ** 2 for work, _ in points)
    if spread <= (SAME_WORK * mean_work) ** 2 * count:
        return 0.0, mean_s / mean_work
    slope = sum((work - mean_work) * (seconds - mean_s) for work, seconds in points) / spread
    if slope <= 0:
        return mean_s, 0.0
    fixed = mean_s - slope * mean_work
    return (fixed, slope) if fixed > 0 else (0.0, mean_s / mean_work)
