"""Proof that a device's memory is back, before its slot takes work again.

The rule (OR-001): the runner's tree is gone, no process of this worker is listed on the device, and
what is used now, the foreign processes' own shares set aside, exceeds the slot's baseline by no
more than the device's epsilon. A foreign process that ends takes its share along: what it gave back
must not make up for what we did not. It must hold on two readings in a row: a driver frees the
memory of a killed process a little after the process itself is gone, and one lucky reading in
between proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from supervisor.devices.device import Device, DeviceProbe, Reading
from supervisor.processes.tree import ProcessTree, all_pids
from supervisor.slots.baseline import Baseline

_POLL_FIRST_S, _POLL_MOST_S = 0.1, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReclaimReading:
    """One look at the device, in numbers; the last one is the verdict."""

    now: Reading
    leaked_bytes: int
    seconds: float


def unattributed_bytes(device: Device, reading: Reading) -> int:
    """Bytes in use that no listed process is said to hold: the driver's, or a leak.

    Where process ids do not map a listed one may be ours, so there it is all that is in use.
    """
    return reading.used_bytes - (
        sum(reading.holders.values()) if device.pid_namespace_shared else 0
    )


def leaked(device: Device, limit_bytes: int, now: Reading, ours: frozenset[int]) -> int:
    """Bytes that a step still holds on the device, beyond its epsilon; 0 or less is clean."""
    listed = [held for pid, held in now.holders.items() if pid in ours]
    if device.pid_namespace_shared and listed:
        return max(1, sum(listed))  # some systems list a process without saying how much it holds
    return unattributed_bytes(device, now) - limit_bytes - device.epsilon_bytes


def own_pids(tree: ProcessTree | None) -> frozenset[int]:
    """Every pid that is no foreign process's.

    A neighbour's has no business on this device either, and its marker may be a lie of ours.
    """
    return all_pids() | (tree.pids() if tree else frozenset())


def foreign_growth(device: Device, before: Reading, now: Reading, ours: frozenset[int]) -> int:
    """How much more other processes hold than before. Unknown, so 0, where ids do not map."""
    if not device.pid_namespace_shared:
        return 0
    return _foreign(now, ours) - _foreign(before, ours)


def _foreign(reading: Reading, ours: frozenset[int]) -> int:
    return sum(held for pid, held in reading.holders.items() if pid not in ours)


async def verify(
    probe: DeviceProbe,
    device: Device,
    *,
    baseline: Baseline,
    tree: ProcessTree | None,
    seen: Callable[[ReclaimReading], None],
) -> ReclaimReading:
    """Poll until the memory is back, then let the baseline know. The caller sets the deadline by
    cancelling.

    `seen` is told of every look, so that there are figures when the deadline comes first. Raises
    `DeviceLost` when the device stops answering.
    """
    limit_bytes = baseline.limit_bytes
    assert limit_bytes is not None  # read before any step could touch the device
    started = anyio.current_time()
    pause_s, clean = _POLL_FIRST_S, 0
    while True:
        # A process that SIGKILL has not ended may allocate again.
        gone = tree is None or tree.is_gone()
        now = await probe.read(device, tree)
        left = leaked(device, limit_bytes, now, own_pids(tree))
        seconds = anyio.current_time() - started
        found = ReclaimReading(now=now, leaked_bytes=max(0, left), seconds=seconds)
        seen(found)
        clean = clean + 1 if gone and left <= 0 else 0
        if clean == 2:
            baseline.update_verified(unattributed_bytes(device, now))
            return found
        await anyio.sleep(_POLL_FIRST_S if clean else pause_s)
        pause_s = min(2 * pause_s, _POLL_MOST_S)
