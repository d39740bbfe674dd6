"""The slot table: one slot per device, and the only place that says whether it may take work.

A slot begins at `verifying` and is `free` only by proof. `held` means that a step owns it.
`quarantined` means that its memory did not come back: it takes no work, is verified again and
again, and returns by itself when the proof succeeds. `lost` means that the device does not answer.
Both states stay for as long as they are true: a verification is no state of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from supervisor.devices.device import Device, Reading
from supervisor.slots.baseline import Baseline


class SlotState(StrEnum):
    VERIFYING = "verifying"
    FREE = "free"
    HELD = "held"
    QUARANTINED = "quarantined"
    LOST = "lost"


_MOVES: dict[SlotState, frozenset[SlotState]] = {
    SlotState.VERIFYING: frozenset({SlotState.FREE, SlotState.QUARANTINED, SlotState.LOST}),
    SlotState.FREE: frozenset({SlotState.HELD, SlotState.LOST}),
    SlotState.HELD: frozenset({SlotState.FREE, SlotState.QUARANTINED, SlotState.LOST}),
    SlotState.QUARANTINED: frozenset({SlotState.FREE, SlotState.LOST}),
    SlotState.LOST: frozenset({SlotState.FREE, SlotState.QUARANTINED}),
}


class IllegalMove(Exception):
    """A move that no slot may make: a bug."""


@dataclass(slots=True)
class Slot:
    device: Device
    state: SlotState = SlotState.VERIFYING
    baseline: Baseline = field(default_factory=Baseline)
    last_reading: Reading | None = None  # the latest, by the gauges' reader
    job_id: UUID | None = None  # whose step holds it

    @property
    def id(self) -> str:
        return self.device.id

    def move(self, state: SlotState) -> None:
        if state not in _MOVES[self.state]:
            raise IllegalMove(f"slot {self.id} cannot go from {self.state} to {state}")
        self.state = state
        if state is not SlotState.HELD:
            self.job_id = None


class SlotTable:
    """Slots by device id."""

    def __init__(self, devices: list[Device]) -> None:
        self._slots = {device.id: Slot(device) for device in devices}

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def free_by_kind(self) -> Iterator[Slot]:
        """One free slot of each device kind and size, the smallest first.

        So the large ones stay for the steps that need them. Slots of one kind and size are alike to
        a claim. The caller may wait between two: a slot that was lost meanwhile is left out.
        """
        kinds: dict[tuple[str, int], Slot] = {}
        for slot in self:
            if slot.state is SlotState.FREE:
                kinds.setdefault((slot.device.kind, slot.device.capacity_bytes), slot)
        for slot in sorted(kinds.values(), key=lambda slot: slot.device.capacity_bytes):
            if slot.state is SlotState.FREE:
                yield slot
