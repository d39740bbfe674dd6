"""The slots of the live workers, grouped by what they can serve, and which step holds which. Pure.

Slots of one group are alike for every step, so a simulation needs to choose between groups only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.db.waiting import LineStep
from shared.db.workers import Slot, Worker
from shared.users import Serves

# In these states a slot takes no step until its memory or its device is back: nobody knows when.
_OUT = {"quarantined", "lost"}

# Indices of groups.
Groups = frozenset[int]


@dataclass(frozen=True, slots=True)
class _Offer:
    """What every slot of a group offers; `models` are ids with the hashes of their checkpoints."""

    device: str
    capacity_bytes: int
    models: frozenset[tuple[UUID, str]]
    kept_for: Serves

    def serves(self, step: LineStep) -> bool:
        has_model = (
            step.model_id is None or (step.model_id, step.kind.checkpoint_sha256) in self.models
        )
        if step.loras:
            ids = {id for id, _ in self.models}
            has_model = has_model and ids.issuperset(step.loras)
        fits = step.device == self.device and step.vram_bytes <= self.capacity_bytes
        accepted = self.kept_for.accepts(user=step.user, priority=step.priority)
        return fits and has_model and accepted


@dataclass(slots=True)
class SlotGroup:
    """Slots that are alike: how many are idle, and the steps that hold the others."""

    offer: _Offer
    idle: int = 0
    holders: list[LineStep] = field(default_factory=list)


class SlotGroups:
    """The groups of all live workers."""

    def __init__(self, live: Iterable[Worker], running: Sequence[LineStep]) -> None:
        self._groups: dict[_Offer, SlotGroup] = {}
        self._served: dict[tuple[object, ...], Groups] = {}
        for worker in live:
            self._add(worker, [step for step in running if step.worker_id == worker.id])
        self.all = list(self._groups.values())

    def serving(self, step: LineStep) -> Groups:
        """The groups whose slots can serve the step."""
        need = (
            step.device,
            step.vram_bytes,
            step.model_id,
            tuple(step.loras or ()),
            step.kind,
            step.user,
            step.priority,
        )
        if need not in self._served:
            self._served[need] = frozenset(
                index for index, group in enumerate(self.all) if group.offer.serves(step)
            )
        return self._served[need]

    def _add(self, worker: Worker, running: list[LineStep]) -> None:
        """Give each step the smallest slot that holds it: which one it really has is not stored."""
        left = sorted(running, key=lambda step: step.vram_bytes)
        for slot in sorted(worker.slots, key=lambda slot: slot.capacity_bytes):
            if slot.state in _OUT:
                continue
            group = self._group(worker, slot)
            held_by = next(
                (
                    step
                    for step in left
                    if step.device == slot.device and step.vram_bytes <= slot.capacity_bytes
                ),
                None,
            )
            if held_by is None:
                group.idle += 1
            else:
                left.remove(held_by)
                group.holders.append(held_by)

    def _group(self, worker: Worker, slot: Slot) -> SlotGroup:
        offer = _Offer(
            slot.device,
            slot.capacity_bytes,
            frozenset(worker.models.items()),
            worker.serves,
        )
        return self._groups.setdefault(offer, SlotGroup(offer))
