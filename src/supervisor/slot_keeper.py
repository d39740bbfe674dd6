"""Slots that no step owns: proven before the first claim, in quarantine, and on their way back.

A driver gives its slot back itself, by proof. Everything else about slots is here: the first
verification, the ones that follow when a step's did not succeed, and the figures that are shown of
each device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import anyio
from anyio.abc import TaskGroup

from shared.settings import Settings
from supervisor.devices import DeviceLost, DeviceProbe
from supervisor.metrics import Metrics, labels
from supervisor.slots import Slot, SlotState
from supervisor.tree import ProcessTree
from supervisor.verify import Reclaimed, unaccounted, verify

log = logging.getLogger(__name__)

# How often a quarantined or lost slot is looked at again; one look may take `reclaim_deadline_s`.
REVERIFY_EVERY_S = 5.0


class SlotKeeper:
    """`freed` is called for each slot that it brings into service."""

    def __init__(
        self,
        slots: Iterable[Slot],
        settings: Settings,
        probe: DeviceProbe,
        metrics: Metrics,
        freed: Callable[[Slot], None],
    ) -> None:
        self._slots = slots
        self._settings = settings
        self._probe = probe
        self._metrics = metrics
        self._freed = freed

    def start(self, tasks: TaskGroup) -> None:
        """Begin with every slot; none is in service before it was verified."""
        self._tasks = tasks
        for slot in self._slots:
            tasks.start_soon(self._first_verify, slot)

    def dirty(self, slot: Slot, tree: ProcessTree | None) -> None:
        """A step could not prove its slot clean: bring it back when its memory is."""
        self._count_quarantine(slot)
        self._tasks.start_soon(self._until_clean, slot, tree)

    async def read_gauges(self) -> None:
        """Show the state and the memory of each slot's device."""
        m = self._metrics
        for slot in self._slots:
            m.pids_map.labels(**labels(slot.device)).set(slot.device.pids_map)
            for state in SlotState:
                m.slot_state.labels(**labels(slot.device), state=state).set(slot.state is state)
            if slot.state is SlotState.LOST:
                continue
            try:
                now = await self._probe.read(slot.device, None)
            except DeviceLost:
                continue  # whoever uses the slot finds out, and says so
            slot.seen = now
            m.saw_memory(slot.device, now)

    async def _first_verify(self, slot: Slot) -> None:
        """At start there is no baseline: what is in use is foreign, and must only hold still."""
        await self._settle(slot, None)
        if slot.state is not SlotState.FREE:
            self._count_quarantine(slot)
            await self._until_clean(slot, None)

    async def _until_clean(self, slot: Slot, tree: ProcessTree | None) -> None:
        """Verify a slot again and again until it may take work."""
        while slot.state is not SlotState.FREE:
            await anyio.sleep(REVERIFY_EVERY_S)
            slot.move(SlotState.VERIFYING)
            await self._settle(slot, tree)
        log.warning("slot %s is back in service", slot.id)

    async def _settle(self, slot: Slot, tree: ProcessTree | None) -> None:
        """One verification of a `verifying` slot: it becomes free, quarantined or lost."""
        device = slot.device

        def saw(found: Reclaimed) -> None:
            self._metrics.saw_leak(device, found.leaked_bytes)

        try:
            if slot.baseline.held_to is None:
                now = await self._probe.read(device, None)
                slot.baseline.at_rest(unaccounted(device, now))
            with anyio.move_on_after(self._settings.reclaim_deadline_s) as deadline:
                await verify(self._probe, device, baseline=slot.baseline, tree=tree, seen=saw)
        except DeviceLost as error:
            log.error("slot %s: %s", slot.id, error)
            slot.move(SlotState.LOST)
            return
        if deadline.cancelled_caught:
            slot.move(SlotState.QUARANTINED)
            return
        slot.move(SlotState.FREE)
        self._freed(slot)

    def _count_quarantine(self, slot: Slot) -> None:
        log.error("slot %s is %s and takes no work", slot.id, slot.state)
        self._metrics.quarantines.labels(**labels(slot.device)).inc()
