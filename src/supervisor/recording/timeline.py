"""When what happened in one try. Noted as it happens, read when it is over.

The driver notes each fact that moved its machine, and how far the runner says it is; nothing else
has to know that somebody may want to see it. `supervisor.execution.spans` makes spans of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.states import StepState
from supervisor.lifecycle.step import EventKind


def _stopwatch() -> Callable[[], int]:
    """Nanoseconds since 1970 that never go back, whatever is done to the clock meanwhile."""
    wall, started = time.time_ns(), time.monotonic_ns()
    return lambda: wall + time.monotonic_ns() - started


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """What the machine was told, and where it was then."""

    at_ns: int
    kind: EventKind
    state: StepState


@dataclass(slots=True)
class Item:
    """One picture: first word of it, received, stored. None: it never came to that."""

    began_ns: int
    received_ns: int | None = None
    stored_ns: int | None = None


@dataclass(slots=True)
class Timeline:
    now: Callable[[], int] = field(default_factory=_stopwatch)
    events: list[TimelineEvent] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    loading_ns: int | None = None
    loaded_ns: int | None = None

    def record_event(self, kind: EventKind, state: StepState) -> None:
        """The machine took a fact and is in this state now."""
        self.events.append(TimelineEvent(self.now(), kind, state))

    def record_stage(self, stage: str, item_index: int | None, *, done: bool) -> None:
        """A stage of an item, or of the load, began or went on; `done` when it is over."""
        now = self.now()
        if item_index is None:
            self.loading_ns = self.loading_ns or now
            self.loaded_ns = now if done else self.loaded_ns
            return
        item = self.items.setdefault(item_index, Item(now))
        if stage == "upload":
            item.received_ns = item.received_ns or now
            item.stored_ns = now if done else None
