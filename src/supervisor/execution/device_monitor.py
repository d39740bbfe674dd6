"""The memory of one step's device: before it, while its runner lives, and proven back after it.

All readings are the parent's own (OR-001). A device that stops answering is noted as lost; what
that means for the step is for its state machine to say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from shared.events import Code
from supervisor.devices.device import DeviceLost, Reading
from supervisor.execution.context import Execution
from supervisor.lifecycle.step import EventKind
from supervisor.processes.tree import ProcessTree
from supervisor.slots.reclaim import (
    ReclaimReading,
    foreign_growth,
    own_pids,
    unattributed_bytes,
    verify,
)
from supervisor.slots.table import SlotState

log = logging.getLogger(__name__)

SAMPLE_EVERY_S = 0.2  # DESIGN §6: the parent's own peak, five times a second


class DeviceMonitor:
    """Reads the device for one try, and gives its slot back: by proof, or to quarantine."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._device = execution.slot.device
        self._slot_returned = False
        self._proof = anyio.CancelScope()

    async def update_baseline_idle(self) -> Reading | None:
        """What is in use before there is a runner: the baseline that its end will be held to."""
        if (now := await self.read_memory()) is not None:
            self._execution.slot.baseline.update_idle(unattributed_bytes(self._device, now))
        return now

    async def read_memory(self) -> Reading | None:
        """What is in use before the runner works; None, and noted, when the device is lost."""
        try:
            before = await self._execution.worker.probe.read(self._device, None)
        except DeviceLost as error:
            self._record_lost(error)
            return None
        self._execution.evidence.before = before
        return before

    def check_headroom(self, now: Reading, tree: ProcessTree | None = None) -> EventKind:
        """Whether the step's need is free `now`: `HEADROOM`, or whether it may wait for it.

        `tree` is the runner that waits for GO. On the CPU it already holds a part of what its step
        may have; on a GPU it has no context yet.
        """
        claim = self._execution.claim
        held = tree.rss_bytes() if tree is not None and self._device.kind == "cpu" else 0
        if now.free_bytes + held >= claim.vram_bytes:
            return EventKind.HEADROOM
        if claim.vram_waited_s < self._execution.worker.settings.vram_wait_s:
            return EventKind.VRAM_BUSY
        return EventKind.VRAM_WAIT_OVER

    async def sample_peak(self, tree: ProcessTree, is_current: Callable[[], bool]) -> None:
        """Note the peak while it goes on; a lost device ends the step."""
        while is_current():
            try:
                now = await self._execution.worker.probe.read(self._device, tree)
            except DeviceLost as error:
                self._record_lost(error)
                self._execution.post(EventKind.FAILURE)
                return
            except OSError as error:  # /proc cannot be read: five looks a second can miss one
                log.warning("a look at %s failed: %s", self._execution.slot.id, error)
            else:
                self._execution.evidence.record_memory(now.used_bytes)
            await anyio.sleep(SAMPLE_EVERY_S)

    async def check_answers(self, tree: ProcessTree) -> None:
        """Ask once whether the device is there: the runner may have died because it is not."""
        try:
            await self._execution.worker.probe.read(self._device, tree)
        except DeviceLost as error:
            self._record_lost(error)

    async def verify(self, tree: ProcessTree | None) -> EventKind | None:
        """Wait until the memory is proven back: `VERIFIED`. `RECLAIM_DEADLINE` if it never can be.

        `tree` is None when nothing was ever started. The answer is None after `stop_verifying`.
        """
        with self._proof:
            return await self._verify(tree)
        return None

    def stop_verifying(self) -> None:
        """The slot's verdict is there. What its device holds later is other people's business."""
        self._proof.cancel()

    async def _verify(self, tree: ProcessTree | None) -> EventKind:
        evidence = self._execution.evidence
        if tree is None:
            return EventKind.RECLAIM_DEADLINE if evidence.device_lost else EventKind.VERIFIED
        try:
            reclaimed = await verify(
                self._execution.worker.probe,
                self._device,
                baseline=self._execution.slot.baseline,
                tree=tree,
                on_reading=self._on_reclaim_reading,
            )
        except DeviceLost as error:
            self._record_lost(error)
            return EventKind.RECLAIM_DEADLINE
        self._record_reclaimed(reclaimed, tree)
        return EventKind.VERIFIED

    def free_slot(self) -> None:
        """The slot is clean: it may take the next step at once."""
        self._slot_returned = True
        self._execution.slot.move(SlotState.FREE)
        self._execution.worker.on_free(self._execution.slot)

    def quarantine_slot(self, tree: ProcessTree | None) -> None:
        """The slot is not proven clean: it takes no work until it is."""
        evidence, recorder, slot = (
            self._execution.evidence,
            self._execution.recorder,
            self._execution.slot,
        )
        if tree is not None and (alive := tree.scan()):
            recorder.record(
                Code.UNKILLABLE,
                f"{len(alive)} processes of the runner survived SIGKILL",
                level="ERROR",
                pids=alive,
            )
        recorder.record(
            Code.GPU_NOT_RECLAIMED,
            f"slot {slot.id} is out of service: its memory was not proven back",
            level="ERROR",
            slot=slot.id,
            device_lost=evidence.device_lost,
            leaked_bytes=None if evidence.reclaimed is None else evidence.reclaimed.leaked_bytes,
            **evidence.figures(),
        )
        self._mark_unclean(tree)

    def abandon_slot(self, tree: ProcessTree | None) -> None:
        """The driver failed. Who holds the slot still gives it to quarantine; nothing is told."""
        if not self._slot_returned:
            self._mark_unclean(tree)

    def _mark_unclean(self, tree: ProcessTree | None) -> None:
        self._slot_returned = True
        slot, lost = self._execution.slot, self._execution.evidence.device_lost
        slot.move(SlotState.LOST if lost else SlotState.QUARANTINED)
        self._execution.worker.on_unclean(slot, tree)

    def _record_reclaimed(self, reclaimed: ReclaimReading, tree: ProcessTree) -> None:
        execution = self._execution
        assert execution.evidence.before is not None  # the headroom was checked before the spawn
        execution.worker.metrics.record_reclaim(self._device, reclaimed.seconds)
        execution.recorder.record(
            Code.GPU_RECLAIMED,
            f"memory of {execution.slot.id} is back",
            level="DEBUG",
            **execution.evidence.figures(),
        )
        before, ours = execution.evidence.before, own_pids(tree)
        if growth_bytes := foreign_growth(self._device, before, reclaimed.now, ours):
            execution.recorder.record(
                Code.GPU_FOREIGN,
                f"other processes changed their use of {execution.slot.id}",
                growth_bytes=growth_bytes,
            )

    def _on_reclaim_reading(self, found: ReclaimReading) -> None:
        if self._proof.cancel_called:  # a reading that was on its way
            return
        self._execution.evidence.reclaimed = found
        self._execution.worker.metrics.record_leak(self._device, found.leaked_bytes)

    def _record_lost(self, error: DeviceLost) -> None:
        log.error("device %s: %s", self._device.id, error, extra=self._execution.recorder.fields)
        self._execution.evidence.know(device_lost=True)
