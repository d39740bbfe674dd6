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
from supervisor.execution.context import Try
from supervisor.lifecycle.step import Kind
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


class DeviceWatch:
    """Reads the device for one try, and gives its slot back: by proof, or to quarantine."""

    def __init__(self, owned: Try) -> None:
        self._try = owned
        self._device = owned.slot.device
        self._given_back = False
        self._proof = anyio.CancelScope()

    async def at_rest(self) -> Reading | None:
        """What is in use before there is a runner: the baseline that its end will be held to."""
        if (now := await self.look()) is not None:
            self._try.slot.baseline.update_idle(unattributed_bytes(self._device, now))
        return now

    async def look(self) -> Reading | None:
        """What is in use before the runner works; None, and noted, when the device is lost."""
        try:
            before = await self._try.host.probe.read(self._device, None)
        except DeviceLost as error:
            self._lost(error)
            return None
        self._try.account.before = before
        return before

    def headroom(self, now: Reading, tree: ProcessTree | None = None) -> Kind:
        """Whether the step's need is free `now`: `HEADROOM`, or whether it may wait for it.

        `tree` is the runner that waits for GO. On the CPU it already holds a part of what its step
        may have; on a GPU it has no context yet.
        """
        claim = self._try.claim
        held = tree.rss_bytes() if tree is not None and self._device.kind == "cpu" else 0
        if now.free_bytes + held >= claim.vram_bytes:
            return Kind.HEADROOM
        if claim.vram_waited_s < self._try.host.settings.vram_wait_s:
            return Kind.VRAM_BUSY
        return Kind.VRAM_WAIT_OVER

    async def sample(self, tree: ProcessTree, going_on: Callable[[], bool]) -> None:
        """Note the peak while it goes on; a lost device ends the step."""
        while going_on():
            try:
                now = await self._try.host.probe.read(self._device, tree)
            except DeviceLost as error:
                self._lost(error)
                self._try.post(Kind.FAILURE)
                return
            except OSError as error:  # /proc cannot be read: five looks a second can miss one
                log.warning("a look at %s failed: %s", self._try.slot.id, error)
            else:
                self._try.account.saw_memory(now.used_bytes)
            await anyio.sleep(SAMPLE_EVERY_S)

    async def check(self, tree: ProcessTree) -> None:
        """Ask once whether the device is there: the runner may have died because it is not."""
        try:
            await self._try.host.probe.read(self._device, tree)
        except DeviceLost as error:
            self._lost(error)

    async def verify(self, tree: ProcessTree | None) -> Kind | None:
        """Wait until the memory is proven back: `VERIFIED`. `RECLAIM_DEADLINE` if it never can be.

        `tree` is None when nothing was ever started. The answer is None after `stop_verifying`.
        """
        with self._proof:
            return await self._verify(tree)
        return None

    def stop_verifying(self) -> None:
        """The slot's verdict is there. What its device holds later is other people's business."""
        self._proof.cancel()

    async def _verify(self, tree: ProcessTree | None) -> Kind:
        account = self._try.account
        if tree is None:
            return Kind.RECLAIM_DEADLINE if account.device_lost else Kind.VERIFIED
        try:
            reclaimed = await verify(
                self._try.host.probe,
                self._device,
                baseline=self._try.slot.baseline,
                tree=tree,
                seen=self._saw_reclaim,
            )
        except DeviceLost as error:
            self._lost(error)
            return Kind.RECLAIM_DEADLINE
        self._note_reclaimed(reclaimed, tree)
        return Kind.VERIFIED

    def free(self) -> None:
        """The slot is clean: it may take the next step at once."""
        self._given_back = True
        self._try.slot.move(SlotState.FREE)
        self._try.host.slot_freed(self._try.slot)

    def quarantine(self, tree: ProcessTree | None) -> None:
        """The slot is not proven clean: it takes no work until it is."""
        account, journal, slot = self._try.account, self._try.journal, self._try.slot
        if tree is not None and (alive := tree.scan()):
            journal.note(
                Code.UNKILLABLE,
                f"{len(alive)} processes of the runner survived SIGKILL",
                level="ERROR",
                pids=alive,
            )
        journal.note(
            Code.GPU_NOT_RECLAIMED,
            f"slot {slot.id} is out of service: its memory was not proven back",
            level="ERROR",
            slot=slot.id,
            device_lost=account.device_lost,
            leaked_bytes=None if account.reclaimed is None else account.reclaimed.leaked_bytes,
            **account.figures(),
        )
        self._give_up(tree)

    def abandon(self, tree: ProcessTree | None) -> None:
        """The driver failed. Who holds the slot still gives it to quarantine; nothing is told."""
        if not self._given_back:
            self._give_up(tree)

    def _give_up(self, tree: ProcessTree | None) -> None:
        self._given_back = True
        slot, lost = self._try.slot, self._try.account.device_lost
        slot.move(SlotState.LOST if lost else SlotState.QUARANTINED)
        self._try.host.slot_dirty(slot, tree)

    def _note_reclaimed(self, reclaimed: ReclaimReading, tree: ProcessTree) -> None:
        owned = self._try
        assert owned.account.before is not None  # the headroom was checked before the spawn
        owned.host.metrics.record_reclaim(self._device, reclaimed.seconds)
        owned.journal.note(
            Code.GPU_RECLAIMED,
            f"memory of {owned.slot.id} is back",
            level="DEBUG",
            **owned.account.figures(),
        )
        before, ours = owned.account.before, own_pids(tree)
        if growth_bytes := foreign_growth(self._device, before, reclaimed.now, ours):
            owned.journal.note(
                Code.GPU_FOREIGN,
                f"other processes changed their use of {owned.slot.id}",
                growth_bytes=growth_bytes,
            )

    def _saw_reclaim(self, found: ReclaimReading) -> None:
        if self._proof.cancel_called:  # a reading that was on its way
            return
        self._try.account.reclaimed = found
        self._try.host.metrics.record_leak(self._device, found.leaked_bytes)

    def _lost(self, error: DeviceLost) -> None:
        log.error("device %s: %s", self._device.id, error, extra=self._try.journal.fields)
        self._try.account.know(device_lost=True)
