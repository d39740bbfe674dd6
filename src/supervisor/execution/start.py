"""Writes that a step runs, once. Only then may GO be sent, with memory and time to spare.

The first check of memory was made before there was a runner, minutes ago if the runner was slow to
get ready. Another process may have taken memory since. The step would run out of it, and that is
final. So memory is read again before each attempt to commit.
"""

from itertools import repeat

from shared.events import Code, NewEvent
from shared.states import StepState
from shared.step_store import Stale
from supervisor.execution.context import DATABASE_RETRY_S, Execution
from supervisor.execution.device_monitor import DeviceMonitor
from supervisor.lifecycle.step import EventKind
from supervisor.recording.event_recorder import log_events


async def commit_running(execution: Execution, device: DeviceMonitor) -> EventKind | None:
    """Commit `running` with what the device holds before the step; return what came of it.

    None when the step may not start any more, whatever the reason is.
    """

    async def attempt() -> EventKind | None:
        if execution.step.state is not StepState.LEASED:
            return None
        headroom = await device.check_headroom()
        if headroom is not EventKind.HEADROOM:
            return headroom
        events = _events(execution)
        await execution.worker.store.commit_running(execution.claim, events)
        log_events(events, execution.recorder.fields)
        return EventKind.RUNNING_COMMITTED if execution.fence.holds else EventKind.LEASE_GONE

    await execution.recorder.flush()
    try:
        return await execution.retry(attempt, repeat(DATABASE_RETRY_S), "cannot start yet")
    except Stale:
        return EventKind.LEASE_GONE


def _events(execution: Execution) -> list[NewEvent]:
    claim, device, before = execution.claim, execution.slot.device, execution.evidence.before
    assert before is not None  # the headroom was checked
    return [
        NewEvent(
            code=Code.STEP_START,
            message=f"step {claim.name} starts on {device.id}",
            step_id=claim.step_id,
            payload={
                "step": claim.name,
                "attempt": claim.attempt + 1,
                "slot": device.id,
                "device": device.name,
                "gpu_mem_used_before": before.used_bytes,
            },
        ),
        NewEvent(
            code=Code.GPU_MEM,
            message=f"memory of {device.id} before the step",
            level="DEBUG",
            step_id=claim.step_id,
            payload={
                "at": "start",
                "slot": device.id,
                "gpu_mem_used_before": before.used_bytes,
                "gpu_mem_free": before.free_bytes,
                "gpu_mem_total": before.total_bytes,
            },
        ),
    ]
