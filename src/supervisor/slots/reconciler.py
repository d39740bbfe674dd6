"""Slots that no step owns: proven before the first claim, in quarantine or lost, on their way back.

A driver gives its slot back itself, by proof. Everything else about slots is here: the first
verification, the ones that follow when a step's did not succeed, and the figures that are shown of
each device. Who reads them also finds a device that was lost while its slot was free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import anyio
from anyio.abc import TaskGroup

from shared.timings import Timings
from supervisor.devices.device import DeviceLost, DeviceProbe
from supervisor.metrics import Metrics, labels
from supervisor.processes.tree import ProcessTree
from supervisor.slots.reclaim import ReclaimReading, unattributed_bytes, verify
from supervisor.slots.table import Slot, SlotState

log = logging.getLogger(__name__)

# How often a quarantined or lost slot is looked at again; one look may take `reclaim_deadline_s`.
REVERIFY_EVERY_S = 5.0


class SlotReconciler:
    """`on_free` is called for each slot that it brings into service.

    `survivors` are processes of dead workers that could not be killed: nobody knows on which device
    they hold what, so no slot is proven, nor its baseline read, while one of them lives.
    """

    def __init__(
        self,
        slots: Iterable[Slot],
        timings: Timings,
        probe: DeviceProbe,
        metrics: Metrics,
        *,
        survivors: Callable[[], list[int]],
        on_free: Callable[[Slot], None],
    ) -> None:
        self._slots = slots
        self._timings = timings
        self._probe = probe
        self._metrics = metrics
        self._survivors = survivors
        self._on_free = on_free

    def start(self, tasks: TaskGroup) -> None:
        """Begin with every slot; none is in service before it was verified."""
        self._tasks = tasks
        for slot in self._slots:
            tasks.start_soon(self._first_verify, slot)

    def on_unclean(self, slot: Slot, tree: ProcessTree | None) -> None:
        """A slot is not proven clean: bring it back when it is."""
        self._count_quarantine(slot)
        self._tasks.start_soon(self._reverify_loop, slot, tree)

    async def read_gauges(self) -> None:
        """Show the state and the memory of each slot's device. None waits for another."""
        async with anyio.create_task_group() as tasks:
            for slot in self._slots:
                tasks.start_soon(self._read_gauge, slot)

    async def _read_gauge(self, slot: Slot) -> None:
        m = self._metrics
        m.pid_namespace_shared.labels(**labels(slot.device)).set(slot.device.pid_namespace_shared)
        for state in SlotState:
            m.slot_state.labels(**labels(slot.device), state=state).set(slot.state is state)
        if slot.state is SlotState.LOST:
            return
        try:
            now = await self._probe.read(slot.device, None)
        except DeviceLost as error:
            self._lost(slot, error)
            return
        except OSError as error:  # /proc cannot be read: the last figures stand
            log.warning("slot %s: its memory cannot be read: %s", slot.id, error)
            return
        slot.last_reading = now
        m.record_memory(slot.device, now)

    def _lost(self, slot: Slot, error: DeviceLost) -> None:
        """Take a slot that nobody uses out of service, before a claim pays for it with a loss.

        Judged by what the slot is now: one that was claimed during the reading is its step's, which
        finds out and says so.
        """
        if slot.state is SlotState.FREE:
            log.error("slot %s: %s", slot.id, error)
            slot.move(SlotState.LOST)
            self.on_unclean(slot, None)

    async def _first_verify(self, slot: Slot) -> None:
        """At start there is no baseline: what is in use is foreign, and must only hold still."""
        if not await self._prove(slot, None):
            self._count_quarantine(slot)
            await self._reverify_loop(slot, None)

    async def _reverify_loop(self, slot: Slot, tree: ProcessTree | None) -> None:
        """Try to prove a slot again and again. It says what it is until it may take work."""
        while True:
            await anyio.sleep(REVERIFY_EVERY_S)
            if await self._prove(slot, tree):
                break
        log.warning("slot %s is back in service", slot.id)

    async def _prove(self, slot: Slot, tree: ProcessTree | None) -> bool:
        """One verification of a slot; True when it is free."""
        state = await self._verify(slot, tree)
        if slot.state is not state:
            slot.move(state)
        if state is SlotState.FREE:
            self._on_free(slot)
        return state is SlotState.FREE

    async def _verify(self, slot: Slot, tree: ProcessTree | None) -> SlotState:
        if self._survivors():
            return SlotState.QUARANTINED
        try:
            if slot.device.lost:
                await self._rediscover(slot)
            device, baseline = slot.device, slot.baseline

            def saw(found: ReclaimReading) -> None:
                self._metrics.record_leak(device, found.leaked_bytes)

            if baseline.limit_bytes is None:
                now = await self._probe.read(device, None)
                baseline.update_idle(unattributed_bytes(device, now))
            with anyio.move_on_after(self._timings.reclaim_deadline_s):
                await verify(self._probe, device, baseline=baseline, tree=tree, seen=saw)
                if tree is not None:
                    tree.unregister()
                return SlotState.FREE
        except DeviceLost as error:
            log.error("slot %s: %s", slot.id, error)
            return SlotState.LOST
        except OSError as error:  # /proc cannot be read: nothing is proven
            log.error("slot %s cannot be verified: %s", slot.id, error)
        return SlotState.QUARANTINED

    async def _rediscover(self, slot: Slot) -> None:
        """A device that could not be described at start: its size, and whether its ids map."""
        found = {device.id: device for device in await self._probe.devices()}
        device = found.get(slot.id, slot.device)
        if device.lost:
            raise DeviceLost(device.lost)
        slot.device = device

    def _count_quarantine(self, slot: Slot) -> None:
        log.error("slot %s is %s and takes no work", slot.id, slot.state)
        self._metrics.quarantines.labels(**labels(slot.device)).inc()
