"""Slots that no step owns: verified before the first claim, in quarantine, lost, on their way back.

An executor frees its own slot, by proof. Everything else about slots is here: the first
verification, those that follow when a step's did not succeed, and the gauges of each device. The
gauge reader also finds a device that was lost while its slot was free.
"""

import logging
from collections.abc import Callable, Iterable

import anyio
from anyio.abc import TaskGroup

from shared.timings import Timings
from supervisor.devices.device import DeviceLost, DeviceProbe
from supervisor.metrics import Metrics, labels
from supervisor.processes.tree import ProcessTree
from supervisor.slots.reclaim import unattributed_bytes, verify
from supervisor.slots.table import Slot, SlotState

log = logging.getLogger(__name__)

# How often a quarantined or lost slot is verified; one verification may take `reclaim_deadline_s`.
REVERIFY_EVERY_S = 5.0


class SlotReconciler:
    """Brings slots into service, and calls `on_free` for each.

    `survivors` are processes of dead workers that could not be killed. On which device they hold
    memory is unknown, so no slot is proven, and no baseline is read, while one of them lives.
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
        self.on_free = on_free

    def start(self, tasks: TaskGroup) -> None:
        """Verify every slot; none is in service before."""
        self._tasks = tasks
        for slot in self._slots:
            tasks.start_soon(self._first_verify, slot)

    def on_unclean(self, slot: Slot, tree: ProcessTree | None) -> None:
        """Verify a slot that is not proven clean until it is, then bring it back."""
        log.error("slot %s is %s and takes no work", slot.id, slot.state)
        self._metrics.quarantines.labels(**labels(slot.device)).inc()
        self._tasks.start_soon(self._reverify_loop, slot, tree)

    async def read_gauges(self) -> None:
        """Show the state and the memory of each slot's device. No device waits for another."""
        async with anyio.create_task_group() as tasks:
            for slot in self._slots:
                tasks.start_soon(self._read_gauge, slot)

    async def _read_gauge(self, slot: Slot) -> None:
        gpu = labels(slot.device)
        self._metrics.pid_namespace_shared.labels(**gpu).set(slot.device.pid_namespace_shared)
        for state in SlotState:
            self._metrics.slot_state.labels(**gpu, state=state).set(slot.state is state)
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
        self._metrics.record_memory(slot.device, now)

    def _lost(self, slot: Slot, error: DeviceLost) -> None:
        """Take a free slot out of service, before a claim pays for the lost device with a loss.

        The slot's state of now counts: when it was claimed during the reading, its step finds the
        loss and reports it.
        """
        if slot.state is SlotState.FREE:
            log.error("slot %s: %s", slot.id, error)
            slot.move(SlotState.LOST)
            self.on_unclean(slot, None)

    async def _first_verify(self, slot: Slot) -> None:
        """At start there is no baseline: what is in use is foreign, and must only not grow."""
        if not await self._prove(slot, None):
            self.on_unclean(slot, None)

    async def _reverify_loop(self, slot: Slot, tree: ProcessTree | None) -> None:
        """Verify a slot again and again, until it may take work."""
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
            self.on_free(slot)
        return state is SlotState.FREE

    async def _verify(self, slot: Slot, tree: ProcessTree | None) -> SlotState:
        if self._survivors():
            return SlotState.QUARANTINED
        try:
            if slot.device.lost:
                await self._rediscover(slot)
            if slot.baseline.limit_bytes is None:
                now = await self._probe.read(slot.device, None)
                slot.baseline.update_idle(unattributed_bytes(slot.device, now))
            with anyio.move_on_after(self._timings.reclaim_deadline_s):
                await verify(
                    self._probe,
                    slot,
                    tree,
                    lambda reading: self._metrics.record_leak(slot.device, reading.leaked_bytes),
                )
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
        """Describe a device that was lost at start: its size, and whether its pids map."""
        devices = {device.id: device for device in await self._probe.devices()}
        device = devices.get(slot.id, slot.device)
        if device.lost:
            raise DeviceLost(device.lost)
        slot.device = device
