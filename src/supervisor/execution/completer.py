"""Writes the end of an execution once, logs it and counts it.

When the step belongs to another worker by now, it does none of these.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from uuid import UUID

import anyio

from shared.events import NewEvent
from shared.states import STATUS_OF, Reason, Status, StepState
from shared.step_store import AttemptResult, CancelRequested, Claim, Stale
from supervisor.execution.context import DATABASE_RETRY_S, Execution
from supervisor.lifecycle.machine import advance
from supervisor.lifecycle.step import Event, EventKind, Step
from supervisor.metrics import VRAM_BUSY
from supervisor.outcomes.result import build_result
from supervisor.recording.event_recorder import log_events

log = logging.getLogger(__name__)


async def write_verdict(execution: Execution) -> AttemptResult | None:
    """Commit the end of the step and return it; None when it is not ours, or cannot be written.

    Gives up after the time of a lease: by then the step is the rescuer's.
    """
    with anyio.move_on_after(execution.worker.timings.lease_s):
        pending = await execution.recorder.drain()
        try:
            return await _write(execution, execution.step, pending)
        except Stale:
            log.info("the verdict is not ours to write", extra=execution.recorder.fields)
            return None
    log.error("the verdict could not be written", extra=execution.recorder.fields)
    return None


async def _write(
    execution: Execution, step: Step, pending: Sequence[NewEvent]
) -> AttemptResult | None:
    claim, worker = execution.claim, execution.worker
    result = build_result(
        claim, step, execution.evidence, worker.timings, worker.settings.presets_dir
    )
    # The recorder logged the pending events when they happened.
    complete = replace(result, events=[*pending, *result.events])
    try:
        following = await execution.retry(
            lambda: worker.store.finish(claim, complete), repeat(DATABASE_RETRY_S), "verdict waits"
        )
    except CancelRequested:
        cancelled, _ = advance(step, Event(EventKind.CANCEL))
        return await _write(execution, cancelled, pending)
    log_events(result.events, execution.recorder.fields)
    _count(execution, step, result, following)
    return result


def _count(execution: Execution, step: Step, result: AttemptResult, following: UUID | None) -> None:
    metrics, figures = execution.worker.metrics, execution.evidence.figures()
    metrics.record_step_memory(
        execution.slot.device,
        before=figures["gpu_mem_used_before"],
        peak=figures["peak_gpu_mem_used"],
        after=figures["gpu_mem_used_after"],
    )
    if result.reason is None:
        metrics.retries.labels(reason=step.last_reason or VRAM_BUSY).inc()
        return
    job_end = _job_end(execution.claim, result.state, result.reason)
    metrics.record_end(result.reason, job=job_end if following is None else None)


def _job_end(claim: Claim, state: StepState, reason: Reason) -> tuple[Status, Reason]:
    """How the job ended, of which this step was the last to run (`shared.db.transitions`)."""
    if state is StepState.SUCCEEDED and claim.position + 1 < claim.chain_length:
        return Status.CANCELLED, Reason.CANCELLED  # requested while this step ran
    return STATUS_OF[state], reason
