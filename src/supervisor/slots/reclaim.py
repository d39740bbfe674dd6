"""Proof that a device's memory is back, before its slot takes work again.

The rule (OR-001): the runner's tree is gone, no process of this worker is listed on the device, and
the use now, without the foreign processes' shares, exceeds the slot's baseline by at most the
device's epsilon. A foreign process that ends takes its share along: what it frees must not make up
for what our step still holds. Two readings in a row must show it: a driver frees the memory of a
killed process a little after the process is gone, and one lucky reading in between proves nothing.
So the device says how long its memory may take to settle (`Device.settle_s`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from shared.retry import backoff
from supervisor.devices.device import Device, DeviceProbe, Reading
from supervisor.processes.tree import ProcessTree, all_pids
from supervisor.slots.table import Slot

_POLL_MOST_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReclaimReading:
    """One reading during a verification; the last one is the verdict."""

    now: Reading
    leaked_bytes: int
    seconds: float


def unattributed_bytes(device: Device, reading: Reading) -> int:
    """Bytes in use that no listed process holds: the driver's, or a leak.

    Where process ids do not map, a listed process may be ours: there it is everything in use.
    """
    listed_bytes = sum(reading.holders.values()) if device.pid_namespace_shared else 0
    return reading.used_bytes - listed_bytes


def leaked(device: Device, limit_bytes: int, now: Reading, ours: frozenset[int]) -> int:
    """Bytes that a step still holds on the device, beyond its epsilon; 0 or less is clean."""
    listed = [held_bytes for pid, held_bytes in now.holders.items() if pid in ours]
    if device.pid_namespace_shared and listed:
        return max(1, sum(listed))  # some systems list a process without its memory
    return unattributed_bytes(device, now) - limit_bytes - device.epsilon_bytes


def own_pids(tree: ProcessTree | None) -> frozenset[int]:
    """Every pid that belongs to no foreign process.

    Processes of other slots' runners are ours too: they must not be on this device either, and
    their markers may be forged.
    """
    return all_pids() | (tree.pids() if tree else frozenset())


def foreign_growth(device: Device, before: Reading, now: Reading, ours: frozenset[int]) -> int:
    """How many more bytes other processes hold than before; 0 where ids do not map."""
    if not device.pid_namespace_shared:
        return 0
    return _foreign(now, ours) - _foreign(before, ours)


def _foreign(reading: Reading, ours: frozenset[int]) -> int:
    return sum(held_bytes for pid, held_bytes in reading.holders.items() if pid not in ours)


async def verify(
    probe: DeviceProbe,
    slot: Slot,
    tree: ProcessTree | None,
    on_reading: Callable[[ReclaimReading], None],
) -> ReclaimReading:
    """Poll until the memory is back, then update the baseline. A cancel is the caller's deadline.

    `on_reading` gets every reading, so there are figures when the deadline comes first. Raises
    `DeviceLost` when the device stops answering.
    """
    device, limit_bytes = slot.device, slot.baseline.limit_bytes
    assert limit_bytes is not None  # read before any step could touch the device
    started = anyio.current_time()
    pauses, clean = backoff(first_s=device.settle_s, most_s=_POLL_MOST_S), 0
    while True:
        # A process that SIGKILL has not ended yet may allocate again.
        gone = tree is None or tree.is_gone()
        now = await probe.read(device, tree)
        leaked_bytes = leaked(device, limit_bytes, now, own_pids(tree))
        seconds = anyio.current_time() - started
        reading = ReclaimReading(now=now, leaked_bytes=max(0, leaked_bytes), seconds=seconds)
        on_reading(reading)
        clean = clean + 1 if gone and leaked_bytes <= 0 else 0
        if clean == 2:
            slot.baseline.update_verified(unattributed_bytes(device, now))
            return reading
        pause_s = next(pauses)
        await anyio.sleep(device.settle_s if clean else pause_s)
