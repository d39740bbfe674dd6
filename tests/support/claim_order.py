"""Whose turn it is, as a model that a reader can check: `shared.db.claim` must choose the same.

Moments are seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from shared.states import Priority
from shared.step_store import NEWEST, PASSED, PASSES

RANKS = list(Priority)


class Waiting(Protocol):
    """A step that is due and fits the slot."""

    id: UUID
    user: str
    priority: Priority
    model_id: UUID | None
    created_at: float
    passed: int


S = TypeVar("S", bound=Waiting)


def next_priority(due: Collection[S], overdue_before: float) -> tuple[Priority, bool]:
    """The priority whose turn it is, and whether it passes higher ones."""
    oldest = {each: [s.created_at for s in due if s.priority is each] for each in RANKS}
    late = [p for p in RANKS[1:] if oldest[p] and min(oldest[p]) <= overdue_before]
    if late:
        return min(late, key=lambda p: (min(oldest[p]), RANKS.index(p))), True
    return next(p for p in RANKS if oldest[p]), False


def next_steps(
    due: Collection[S],
    virtual_s: Mapping[str, float],
    *,
    overdue_before: float = float("-inf"),
    warm: Collection[UUID] = (),
) -> tuple[list[S], bool]:
    """The step whose turn it is, then those that it passes; whether it passes higher priorities."""
    priority, overdue = next_priority(due, overdue_before)
    mine = [step for step in due if step.priority is priority]
    user = min(mine, key=lambda s: (virtual_s[s.user], s.created_at, s.id)).user
    line = sorted((s for s in mine if s.user == user), key=lambda s: (s.created_at, s.id))
    place = next((i for i, step in enumerate(line) if step.model_id in warm), 0)
    if place > PASSES or any(step.passed >= PASSED for step in line[:place]):
        place = 0
    return [line[place], *line[:place]], overdue


@dataclass(kw_only=True, slots=True)
class Share:
    """What one user has used of one device."""

    virtual_s: float = 0.0
    start_s: float = 0.0
    mean_s: float = 0.0
    ended_at: float = float("-inf")

    def charge(self, start_s: float, used_s: float, weight: float, now: float) -> None:
        self.virtual_s = max(self.virtual_s, start_s) + used_s / weight
        self.start_s = max(self.start_s, start_s)
        if used_s:
            newest = NEWEST if self.mean_s else 1.0
            self.mean_s += (used_s - self.mean_s) * newest
        self.ended_at = now


def base(
    share: Share | None, latest_s: float, oldest_waits_since: float, flying_s: Sequence[float]
) -> float:
    """A user's virtual time: who was idle has saved nothing up."""
    own = share or Share()
    if flying_s or oldest_waits_since <= own.ended_at:
        return max(own.virtual_s, *flying_s, 0.0)
    return max(own.virtual_s, latest_s)
