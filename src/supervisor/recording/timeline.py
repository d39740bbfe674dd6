"""When what happened in one execution. Recorded as it happens, read when it is over.

The executor records each event that moved its machine; the progress reporter records the runner's
stages. `supervisor.execution.spans` makes spans of both, and no other code needs to know of traces.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.states import StepState
from supervisor.lifecycle.step import EventKind


def _stopwatch() -> Callable[[], int]:
    """Nanoseconds since 1970 that never go back, even if the clock is set meanwhile."""
    wall, started = time.time_ns(), time.monotonic_ns()
    return lambda: wall + time.monotonic_ns() - started


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """What moved the machine, and its state after that."""

    at_ns: int
    kind: EventKind
    state: StepState


@dataclass(slots=True)
class Period:
    """From when to when something lasted, of one item if it names one. No end: it is not over."""

    start_ns: int
    end_ns: int | None = None
    item_index: int | None = None


@dataclass(slots=True)
class Timeline:
    now: Callable[[], int] = field(default_factory=_stopwatch)
    events: list[TimelineEvent] = field(default_factory=list)
    work: dict[str, Period] = field(default_factory=dict)  # the load, and each item until it came
    uploads: dict[str, Period] = field(default_factory=dict)

    def record_event(self, kind: EventKind, state: StepState) -> None:
        """The machine took an event and is in this state now."""
        self.events.append(TimelineEvent(self.now(), kind, state))

    def record_stage(self, stage: str, item_index: int | None, *, done: bool) -> None:
        """A stage of an item, or of the load, began or went on; `done` when it is over."""
        now = self.now()
        if item_index is None:
            load = self.work.setdefault("load", Period(now))
            load.end_ns = now if done else load.end_ns
            return
        item = self.work.setdefault(f"item {item_index}", Period(now, item_index=item_index))
        if stage == "upload":
            item.end_ns = item.end_ns or now
            upload = Period(item.end_ns, now if done else None, item_index)
            self.uploads[f"upload {item_index}"] = upload
