"""Writes down how a try ended, once, tells and counts it. Silent when it is somebody else's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import anyio

from shared.errors import InfraUnavailable
from shared.events import NewEvent
from shared.presets import presets
from shared.states import STATUS_OF, Reason, Status, StepState
from shared.step_store import AttemptResult, Claim, Stale
from supervisor.execution.context import Execution
from supervisor.lifecycle.step import Step
from supervisor.outcomes.memory_report import memory_report
from supervisor.outcomes.result import build_result

log = logging.getLogger(__name__)

_RETRY_S = 0.5


async def write_verdict(
    execution: Execution, step: Step, *, vram_wait: bool
) -> AttemptResult | None:
    """Commit the end of `step` and return it; None when it is not ours, or cannot be written.

    Gives up when its lease has long been somebody else's to sweep.
    """
    with anyio.move_on_after(execution.worker.timings.lease_s):
        pending = await execution.recorder.drain()
        end = _end(execution, step, pending, vram_wait=vram_wait)
        return await _until_written(execution, step, end, pending)
    log.error("the verdict could not be written", extra=execution.recorder.fields)
    return None


def _end(
    execution: Execution, step: Step, pending: Sequence[NewEvent], *, vram_wait: bool
) -> AttemptResult:
    evidence, worker = execution.evidence, execution.worker

    def memory() -> dict[str, Any]:
        known = presets(worker.settings.presets_dir).values()
        return memory_report(execution.claim, evidence.before, evidence.peak_bytes, known)

    return build_result(
        execution.claim,
        step,
        evidence.classify(),
        worker.timings,
        figures=evidence.figures(),
        memory=memory,
        vram_wait=vram_wait,
        pending=pending,
    )


async def _until_written(
    execution: Execution, step: Step, end: AttemptResult, pending: Sequence[NewEvent]
) -> AttemptResult | None:
    while True:
        try:
            following = await execution.worker.store.finish(execution.claim, end)
        except Stale:
            log.info("the verdict is not ours to write", extra=execution.recorder.fields)
            return None
        except InfraUnavailable as error:
            log.warning("verdict waits: %s", error.message, extra=execution.recorder.fields)
            await anyio.sleep(_RETRY_S)
            continue
        if end.state is StepState.QUEUED and following is None:
            # It was to be tried again, and somebody asked for its end in between.
            end = end.cancelled(execution.claim)
        written = {id(event) for event in pending}  # these were told when they happened
        execution.recorder.log_events(*(event for event in end.events if id(event) not in written))
        _count(execution, step, end, following)
        return end


def _count(execution: Execution, step: Step, end: AttemptResult, following: UUID | None) -> None:
    metrics, figures = execution.worker.metrics, execution.evidence.figures()
    metrics.record_step_memory(
        execution.slot.device,
        before=figures["gpu_mem_used_before"],
        peak=figures["peak_gpu_mem_used"],
        after=figures["gpu_mem_used_after"],
    )
    if end.reason is None:
        metrics.retries.labels(reason=step.last_reason or "vram_busy").inc()
        return
    metrics.steps.labels(reason=end.reason).inc()
    if end.reason is Reason.ATTEMPTS_EXHAUSTED:
        metrics.dead_letters.labels(kind="job").inc()
    if following is None:
        status, reason = _of_job(execution.claim, end, end.reason)
        metrics.jobs_finished.labels(status=status, reason=reason).inc()


def _of_job(claim: Claim, end: AttemptResult, reason: Reason) -> tuple[Status, Reason]:
    """How the job ended whose last step to run this was (`shared.db.transitions`)."""
    if end.state is StepState.SUCCEEDED and claim.position + 1 < claim.chain_length:
        return Status.CANCELLED, Reason.CANCELLED  # asked for while this step went on
    return STATUS_OF[end.state], reason
