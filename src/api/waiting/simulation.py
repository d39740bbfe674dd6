"""The slots of live workers, played forward. Pure.

Whenever a slot becomes free it takes the first step of the line that it can serve. Each run draws
for every step how long it takes, from what steps of its kind took lately (`api.waiting.durations`).
The work is bounded: `PICKS` picks of a slot by a step, over all runs.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from heapq import heapify, heapreplace
from random import Random
from uuid import UUID

from api.waiting.durations import Durations
from api.waiting.slots import Groups, SlotGroups
from shared.db.waiting import LineStep

PICKS = 20_000
MOST_RUNS = 100
FEWEST_RUNS = 20


class _Ends(dict[str, float]):
    """By user, the first end of a job in one run."""

    def note(self, step: LineStep, end: float) -> None:
        if step.last and end < self.get(step.user, math.inf):
            self[step.user] = end


class Simulation:
    """What came out of all runs.

    `starts` has the seconds until each step starts, run by run; `tails` those until each group has
    a free slot behind all steps; `ends` the median of those until a job of a user ends.
    """

    def __init__(
        self, steps: Sequence[LineStep], groups: SlotGroups, durations: Durations, random: Random
    ) -> None:
        """Each of `steps` is served by a group, and all that a slot of these groups does before
        the step is measured."""
        self.tails: list[list[float]] = []
        self._groups = groups
        self._durations = durations
        users: dict[str, list[float]] = defaultdict(list)
        picks = [_Pick(step, groups.serving(step), durations) for step in steps]
        for _ in range(max(FEWEST_RUNS, min(MOST_RUNS, PICKS // (len(steps) + 1)))):
            for user, end in self._run(picks, random).items():
                users[user].append(end)
        self.starts: dict[UUID, list[float]] = {pick.step.id: pick.starts for pick in picks}
        self.ends = {user: sorted(each)[len(each) // 2] for user, each in users.items()}

    def _run(self, picks: Sequence["_Pick"], random: Random) -> _Ends:
        self._durations.begin()
        ends = _Ends()
        free_at = [self._free_at(index, ends) for index in range(len(self._groups.all))]
        for pick in picks:
            pick.play(free_at, random, ends)
        self.tails.append([heap[0] if heap else math.inf for heap in free_at])
        return ends

    def _free_at(self, index: int, ends: _Ends) -> list[float]:
        """A heap of the moments at which the slots of a group become free."""
        group = self._groups.all[index]
        free_at = [0.0] * group.idle
        for step in filter(self._durations.measured, group.holders):
            free_at.append(self._durations.draw_rest(step))
            ends.note(step, free_at[-1])
        heapify(free_at)
        return free_at


class _Pick:
    """A step that a slot picks, once in each run, with all that a run needs at hand."""

    def __init__(self, step: LineStep, groups: Groups, durations: Durations) -> None:
        self.step = step
        self.starts: list[float] = []
        self._groups = sorted(groups)
        self._samples = durations.samples(step)
        self._durations = durations

    def play(self, free_at: list[list[float]], random: Random, ends: _Ends) -> None:
        """Take the slot that is free first. `free_at` has a heap for each group."""
        heap = free_at[self._groups[0]]
        for index in self._groups[1:]:
            heap = min(heap, free_at[index], key=_first)
        claimed_at = max(heap[0], self.step.due_in_s)
        if not self._samples:  # no step behind it on these slots is played
            self.starts.append(claimed_at)
            return
        sample = self._samples[int(random.random() * len(self._samples))]
        factor = self._durations.factor(self.step)
        self.starts.append(claimed_at + sample.start_s * factor)
        end = claimed_at + sample.held_s * factor
        heapreplace(heap, end)
        ends.note(self.step, end)


def _first(heap: list[float]) -> float:
    return heap[0]
