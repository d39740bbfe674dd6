"""Where a step is in the line, and when it will start. Pure.

Theory of operation
-------------------
`api.waiting.simulation` plays the slots forward, many times. The starts of a step over all runs
give its span: the 5th to the 95th percentile.

A start is known only if everything before it is. A step of a kind that was never measured makes the
slots that could take it unknown for all steps behind it; so does a step behind an unknown one.
Steps that will come later, and may pass those that wait, are left out: they are not known yet.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from uuid import UUID

from api.waiting.durations import Durations
from api.waiting.simulation import Simulation
from api.waiting.slots import Groups, SlotGroups
from shared.db.waiting import Line, LineStep

LOW, HIGH = 0.05, 0.95
# A free slot looks for a step within this time, if the notification was lost.
CLAIM_S = 1.2
# The same line gives the same answer: without a seed the span would shiver from second to second.
SEED = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Seconds from the moment of the line."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """`position` counts from 1, among the steps that the same slots serve.

    Not `exact`: at least so many; the line was not read further. `starts_in_s` is None where
    something before it is unknown.
    """

    position: int
    exact: bool
    starts_in_s: Span | None


class Forecast:
    """What is known of a line."""

    def __init__(self, line: Line) -> None:
        random = Random(SEED)  # noqa: S311 - no secret
        self._cut = line.cut
        self._groups = SlotGroups(line.live, line.running)
        self._durations = Durations(line.run_times, random)
        self._ahead: Counter[tuple[str, Groups]] = Counter()
        self._unknown = {
            index
            for index, group in enumerate(self._groups.all)
            if not all(map(self._durations.measured, group.holders))
        }
        positions = {step.id: self._join(step) for step in line.waiting}
        known = [step for step in line.waiting if self._settle(step)]
        self._simulation = Simulation(known, self._groups, self._durations, random)
        self._of_job = {step.job_id: step.id for step in line.waiting}
        self._of_step = {
            step_id: Place(
                position=position,
                exact=True,
                starts_in_s=_span(self._simulation.starts.get(step_id, [])),
            )
            for step_id, position in positions.items()
        }

    def place_of_job(self, job_id: UUID) -> Place | None:
        """Of the job's step that waits; None when the line that was read has none."""
        step_id = self._of_job.get(job_id)
        return None if step_id is None else self._of_step[step_id]

    def place(self, step: LineStep) -> Place:
        """Of any step that waits: one that the line does not have is behind it."""
        return self._of_step.get(step.id) or self._behind(step)

    def next_end_s(self, user: str) -> float | None:
        """Seconds until one of the user's jobs ends; None when that is not known."""
        return self._simulation.ends.get(user)

    def _join(self, step: LineStep) -> int:
        """The position of the next step of the line."""
        groups = self._groups.serving(step)
        position = self._position(step, groups)
        self._ahead[step.device, groups] += 1
        return position

    def _settle(self, step: LineStep) -> bool:
        """Whether the start of the next step of the line can be known."""
        groups = self._groups.serving(step)
        known = bool(groups) and not groups & self._unknown
        if not (known and self._durations.samples(step)):
            self._unknown |= groups
        return known

    def _position(self, step: LineStep, groups: Groups) -> int:
        """Behind those that share a slot; where no slot serves it, behind those of its device."""
        return 1 + sum(
            count
            for (device, others), count in self._ahead.items()
            if groups & others or (not groups and device == step.device and not others)
        )

    def _behind(self, step: LineStep) -> Place:
        groups, exact = self._groups.serving(step), step.device not in self._cut
        position = self._position(step, groups)
        if not (exact and groups) or groups & self._unknown:
            return Place(position=position, exact=exact, starts_in_s=None)
        start_s = self._durations.median_start_s(step)
        starts = [
            max(min(tail[index] for index in groups), step.due_in_s) + start_s
            for tail in self._simulation.tails
        ]
        return Place(position=position, exact=exact, starts_in_s=_span(starts))


def _span(starts: Sequence[float]) -> Span | None:
    if not starts:
        return None
    ordered = sorted(starts)
    last = len(ordered) - 1
    return Span(low=ordered[round(LOW * last)], high=ordered[round(HIGH * last)] + CLAIM_S)
