"""The memory of one step's device: before the step, while its runner lives, and proven back after.

All readings are the parent's own (OR-001). A device that stops answering is recorded as lost; the
state machine decides what that means for the step.
"""

import logging
from dataclasses import replace

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
from supervisor.slots.reconciler import SlotReconciler
from supervisor.slots.table import SlotState

log = logging.getLogger(__name__)

SAMPLE_EVERY_S = 0.2  # DESIGN §6: the parent's own peak, five times a second
# Of one tree. torch starts a few for each core; each takes a number of the host's processes.
MAX_THREADS = 2048


class DeviceMonitor:
    """Reads the device for one execution, and returns its slot: by proof, or to quarantine."""

    def __init__(self, execution: Execution, reconciler: SlotReconciler) -> None:
        self._execution = execution
        self._reconciler = reconciler
        self._evidence = execution.evidence
        self._recorder = execution.recorder
        self._slot = execution.slot
        self._device = execution.slot.device
        self._runners = execution.worker.runners
        self._host_memory = execution.worker.host_memory
        self._slot_returned = False
        self._proof = anyio.CancelScope()

    async def check_answers(self) -> None:
        """Read the device once: the runner may have died because the device is lost."""
        await self._read(self._execution.tree)

    async def _read(self, tree: ProcessTree | None) -> Reading | None:
        try:
            return await self._execution.worker.probe.read(self._device, tree)
        except DeviceLost as error:
            self._record_lost(error)
            return None

    async def check_headroom(self) -> EventKind:
        """Whether the step's need is free: `HEADROOM`, or whether the step may wait for it.

        What is in use now is what the step found. Before there is a runner, it is also the baseline
        for the proof after it.
        """
        claim = self._execution.claim
        missing_bytes = await self._missing_bytes()
        if missing_bytes and missing_bytes > 0 and await self._give_up_warm(missing_bytes):
            missing_bytes = await self._missing_bytes()
        if missing_bytes is None:
            # Not this step's fault, but it costs a loss and a pause, like a device lost later.
            # Without, a device that comes and goes would return the step to the queue for ever.
            return EventKind.FAILURE
        if missing_bytes <= 0:
            if self._device.kind == "cpu":
                self._host_memory.promise(self._slot.id, claim.vram_bytes, self._taken_bytes)
            return EventKind.HEADROOM
        if claim.vram_waited_s < self._execution.worker.settings.vram_wait_s:
            return EventKind.VRAM_BUSY
        return EventKind.VRAM_WAIT_OVER

    async def _missing_bytes(self) -> int | None:
        """How much more memory the step needs than it can get; None where the device is lost."""
        tree = self._execution.tree
        reading = await self._read(None)
        if reading is None:
            return None
        reading = self._without_promised(reading)
        self._evidence.before = reading
        if tree is None:
            self._slot.baseline.update_idle(unattributed_bytes(self._device, reading))
        taken_bytes = self._taken_bytes() if self._device.kind == "cpu" else 0
        return self._execution.claim.vram_bytes - reading.free_bytes - taken_bytes

    def _without_promised(self, reading: Reading) -> Reading:
        """What steps in other slots were promised of the host's memory is not free, in use or not;
        the slot's own share is."""
        if reading.host_free_bytes is None:
            return reading
        host_free = reading.host_free_bytes - self._host_memory.untaken_bytes(besides=self._slot.id)
        return replace(reading, free_bytes=max(0, min(reading.free_bytes, host_free)))

    def _taken_bytes(self) -> int:
        """Of the host's memory: the runner holds a part of what its step needs already while it
        waits for GO, or it will share what its template holds. On a GPU neither has a context."""
        if (tree := self._execution.tree) is not None:
            return tree.known_rss_bytes()
        return self._runners.held_bytes(self._execution.model)

    async def _give_up_warm(self, needed_bytes: int) -> bool:
        """Free host memory that models are kept warm in; False where that frees nothing here."""
        if self._device.kind != "cpu":
            return False
        return await self._runners.make_room(needed_bytes, self._execution.model)

    async def sample_peak(self) -> None:
        """Record the peak while the runner may live; a lost device ends the step, and so do threads
        without end."""
        while self._execution.runner_may_live:
            try:
                reading = await self._read(self._execution.tree)
            except OSError as error:  # /proc cannot be read: one of five samples a second may fail
                log.warning("a reading of %s failed: %s", self._slot.id, error)
            else:
                if reading is None:
                    self._execution.post(EventKind.FAILURE)
                    return
                self._evidence.record_memory(reading.used_bytes)
                if self._has_too_many_threads():
                    self._execution.post(EventKind.PROTOCOL_ERROR)
                    return
            await anyio.sleep(SAMPLE_EVERY_S)

    def _has_too_many_threads(self) -> bool:
        tree = self._execution.tree
        if tree is None or (count := tree.thread_count()) <= MAX_THREADS:
            return False
        self._evidence.facts.protocol_error = f"it started {count} threads"
        return True

    async def verify(self) -> EventKind | None:
        """Wait until the memory is proven back: `VERIFIED`. `RECLAIM_DEADLINE` if it never can be.

        Returns None after `stop_verifying`.
        """
        with self._proof:
            if (tree := self._execution.tree) is None:  # no runner was ever started
                lost = self._evidence.facts.device_lost
                return EventKind.RECLAIM_DEADLINE if lost else EventKind.VERIFIED
            try:
                reclaimed = await verify(
                    self._execution.worker.probe, self._slot, tree, self._on_reclaim_reading
                )
            except DeviceLost as error:
                self._record_lost(error)
                return EventKind.RECLAIM_DEADLINE
            self._record_reclaimed(reclaimed, tree)
            return EventKind.VERIFIED
        return None

    def stop_verifying(self) -> None:
        """The slot has its verdict. What its device holds later is not this step's."""
        self._proof.cancel()

    def free_slot(self) -> None:
        """The slot is clean: it may take the next step at once."""
        self._slot_returned = True
        self._host_memory.release(self._slot.id)
        self._slot.move(SlotState.FREE)
        self._reconciler.on_free(self._slot)

    def quarantine_slot(self) -> None:
        """The slot is not proven clean: it takes no work until it is."""
        evidence, tree = self._evidence, self._execution.tree
        if tree is not None and (alive := tree.scan()):
            self._recorder.record(
                Code.UNKILLABLE,
                f"{len(alive)} processes of the runner survived SIGKILL",
                level="ERROR",
                pids=alive,
            )
        self._recorder.record(
            Code.GPU_NOT_RECLAIMED,
            f"slot {self._slot.id} is out of service: its memory was not proven back",
            level="ERROR",
            slot=self._slot.id,
            device_lost=evidence.facts.device_lost,
            leaked_bytes=None if evidence.reclaimed is None else evidence.reclaimed.leaked_bytes,
            **evidence.figures(),
        )
        self._mark_unclean()

    def abandon_slot(self) -> None:
        """The executor failed. A slot that it still holds goes to quarantine, without an event."""
        if not self._slot_returned:
            self._mark_unclean()

    def _mark_unclean(self) -> None:
        self._slot_returned = True
        self._host_memory.release(self._slot.id)
        self._slot.move(
            SlotState.LOST if self._evidence.facts.device_lost else SlotState.QUARANTINED
        )
        self._reconciler.on_unclean(self._slot, self._execution.tree)

    def _record_reclaimed(self, reclaimed: ReclaimReading, tree: ProcessTree) -> None:
        before = self._evidence.before
        assert before is not None  # the headroom was checked before the spawn
        self._execution.worker.metrics.record_reclaim(self._device, reclaimed.seconds)
        self._recorder.record(
            Code.GPU_RECLAIMED,
            f"memory of {self._slot.id} is back",
            level="DEBUG",
            **self._evidence.figures(),
        )
        if growth_bytes := foreign_growth(self._device, before, reclaimed.now, own_pids(tree)):
            self._recorder.record(
                Code.GPU_FOREIGN,
                f"other processes changed their use of {self._slot.id}",
                growth_bytes=growth_bytes,
            )

    def _on_reclaim_reading(self, reading: ReclaimReading) -> None:
        if self._proof.cancel_called:  # a reading that was under way
            return
        self._evidence.reclaimed = reading
        self._execution.worker.metrics.record_leak(self._device, reading.leaked_bytes)

    def _record_lost(self, error: DeviceLost) -> None:
        log.error("device %s: %s", self._device.id, error, extra=self._recorder.fields)
        self._evidence.facts.device_lost = True
