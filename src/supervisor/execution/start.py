"""Writes down that a step runs, once, and only then is GO allowed: with memory and time to spare.

The headroom was looked at before there was a runner, minutes ago if that was slow to get ready. Who
took the memory meanwhile would make this step run out of it, which is final, so it is looked at
again before each attempt to commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from shared.errors import InfraUnavailable
from shared.events import Code, NewEvent
from shared.step_store import Stale
from supervisor.devices.device import Reading
from supervisor.execution.context import Try
from supervisor.execution.device_monitor import DeviceWatch
from supervisor.execution.lease import Fence
from supervisor.lifecycle.step import Kind
from supervisor.processes.tree import ProcessTree

log = logging.getLogger(__name__)

_RETRY_S = 0.5


async def commit_running(
    owned: Try,
    device: DeviceWatch,
    fence: Fence,
    *,
    tree: ProcessTree,
    going_on: Callable[[], bool],
) -> Kind | None:
    """Commit `running` with what the device holds before the step; return what came of it.

    None when the step is not `going_on` to run any more, whatever the reason was.
    """
    await owned.journal.flush()
    while going_on():
        before = await device.look()
        if before is None:
            return Kind.FAILURE
        if (found := device.headroom(before, tree)) is not Kind.HEADROOM:
            return found
        events = _events(owned, before)
        try:
            await owned.host.store.commit_running(owned.claim, events)
        except Stale:
            return Kind.LEASE_GONE
        except InfraUnavailable as error:
            log.warning("cannot start yet: %s", error.message, extra=owned.journal.fields)
            await anyio.sleep(_RETRY_S)
        else:
            owned.journal.told(*events)
            return Kind.RUNNING_COMMITTED if fence.holds else Kind.LEASE_GONE
    return None


def _events(owned: Try, before: Reading) -> list[NewEvent]:
    claim, device, journal = owned.claim, owned.slot.device, owned.journal
    return [
        journal.event(
            Code.STEP_START,
            f"step {claim.name} starts on {device.id}",
            step=claim.name,
            attempt=claim.attempt + 1,
            slot=device.id,
            device=device.name,
            gpu_mem_used_before=before.used_bytes,
        ),
        journal.event(
            Code.GPU_MEM,
            f"memory of {device.id} before the step",
            level="DEBUG",
            at="start",
            slot=device.id,
            gpu_mem_used_before=before.used_bytes,
            gpu_mem_free=before.free_bytes,
            gpu_mem_total=before.total_bytes,
        ),
    ]
