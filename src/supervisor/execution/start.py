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
from supervisor.execution.context import Execution
from supervisor.execution.device_monitor import DeviceMonitor
from supervisor.execution.lease import Fence
from supervisor.lifecycle.step import EventKind
from supervisor.processes.tree import ProcessTree

log = logging.getLogger(__name__)

_RETRY_S = 0.5


async def commit_running(
    execution: Execution,
    device: DeviceMonitor,
    fence: Fence,
    *,
    tree: ProcessTree,
    is_current: Callable[[], bool],
) -> EventKind | None:
    """Commit `running` with what the device holds before the step; return what came of it.

    None when the step is not to run any more, whatever the reason was.
    """
    await execution.recorder.flush()
    while is_current():
        before = await device.read_memory()
        if before is None:
            return EventKind.FAILURE
        if (found := device.check_headroom(before, tree)) is not EventKind.HEADROOM:
            return found
        events = _events(execution, before)
        try:
            await execution.worker.store.commit_running(execution.claim, events)
        except Stale:
            return EventKind.LEASE_GONE
        except InfraUnavailable as error:
            log.warning("cannot start yet: %s", error.message, extra=execution.recorder.fields)
            await anyio.sleep(_RETRY_S)
        else:
            execution.recorder.log_events(*events)
            return EventKind.RUNNING_COMMITTED if fence.holds else EventKind.LEASE_GONE
    return None


def _events(execution: Execution, before: Reading) -> list[NewEvent]:
    claim, device, recorder = execution.claim, execution.slot.device, execution.recorder
    return [
        recorder.make_event(
            Code.STEP_START,
            f"step {claim.name} starts on {device.id}",
            step=claim.name,
            attempt=claim.attempt + 1,
            slot=device.id,
            device=device.name,
            gpu_mem_used_before=before.used_bytes,
        ),
        recorder.make_event(
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
