"""From a finished try to what the database and the user are told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared.events import Code, NewEvent
from shared.retry import backoff_s
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim
from shared.timings import Timings
from supervisor.lifecycle.step import Step
from supervisor.outcomes.classify import Classification
from supervisor.outcomes.memory_report import ABOUT_MEMORY

# A device whose memory is busy is looked at again about this often.
VRAM_RETRY_S = 2.0

_MESSAGES = {
    Reason.CANCELLED: "the job was cancelled on request",
    Reason.TIMEOUT: "the step ran longer than its timeout of {timeout_s:g} s and was stopped",
    Reason.LEASE_LOST: "the worker lost its lease on the step, so it stopped the runner",
    Reason.INFRA_UNAVAILABLE: "the database or the object store did not do its part in time",
    Reason.DRAINED: "the worker was shut down and gave the step back",
    Reason.INSUFFICIENT_VRAM: "the device had too little free memory for longer than allowed",
    Reason.RUNNER_CRASHED: "the runner did not behave and was stopped",
}


def retry_delay_s(timings: Timings, tries: int) -> float:
    """Exponential with full jitter: steps that failed together must not return together."""
    return backoff_s(tries, first_s=timings.retry_base_s, most_s=timings.retry_cap_s, jitter=1.0)


def error_of(claim: Claim, reason: Reason, classification: Classification) -> dict[str, Any]:
    """The error object of a try: the judgement's own words where it decided, ours otherwise."""
    if classification.reason is reason:
        return {
            "code": reason.value,
            "message": classification.message,
            "details": classification.details,
        }
    message = _MESSAGES.get(reason, reason.value).format(timeout_s=claim.timeout_s)
    return {"code": reason.value, "message": message, "details": classification.details}


def build_result(
    claim: Claim,
    step: Step,
    classification: Classification,
    timings: Timings,
    *,
    figures: dict[str, Any],
    memory: Callable[[], dict[str, Any]],
    vram_wait: bool,
    pending: Sequence[NewEvent],
) -> AttemptResult:
    """The one record of how a try ended, for the transaction that writes it.

    `figures` are those of OR-001. `memory` is asked only of a step that lacked some: one that could
    not be read has no size.
    """
    if step.state is StepState.QUEUED:
        told = [] if vram_wait else _memory_event(claim, figures)
        pending = [*pending, *told]
        return _requeued(claim, step, classification, timings, vram_wait=vram_wait, pending=pending)
    assert step.reason is not None
    error = None
    if step.reason is Reason.ATTEMPTS_EXHAUSTED:
        assert step.last_reason is not None
        error = exhausted(
            step.attempt, step.losses, error_of(claim, step.last_reason, classification)
        )
    elif step.reason is not Reason.COMPLETED:
        error = error_of(claim, step.reason, classification)
        about_memory = memory() if step.reason in ABOUT_MEMORY else {}
        error["details"] = error["details"] | figures | about_memory
    finish = NewEvent(
        code=Code.STEP_FINISH,
        message=f"step {claim.name} {step.state}: {step.reason}",
        level="ERROR" if step.state is StepState.FAILED else "INFO",
        step_id=claim.step_id,
        payload={"step": claim.name, "state": step.state, "reason": step.reason, **figures},
    )
    return AttemptResult(
        state=step.state,
        reason=step.reason,
        attempt=step.attempt,
        losses=step.losses,
        error=error,
        events=[*pending, *_memory_event(claim, figures), finish],
    )


def _memory_event(claim: Claim, figures: dict[str, Any]) -> list[NewEvent]:
    """What the try's device held before, at most and after; nothing if nobody came to look."""
    if figures["gpu_mem_used_before"] is None:
        return []
    return [
        NewEvent(
            code=Code.GPU_MEM,
            message=f"memory of step {claim.name}, before, at its peak and after",
            level="DEBUG",
            step_id=claim.step_id,
            payload={"at": "end", **figures},
        )
    ]


def exhausted(attempt: int, losses: int, last_error: dict[str, Any] | None) -> dict[str, Any]:
    """The error of a step that was tried as often as it may be."""
    return {
        "code": Reason.ATTEMPTS_EXHAUSTED.value,
        "message": f"gave up after {attempt} attempts and {losses} losses",
        "details": {"attempts": attempt, "losses": losses, "last_error": last_error},
    }


def _requeued(
    claim: Claim,
    step: Step,
    classification: Classification,
    timings: Timings,
    *,
    vram_wait: bool,
    pending: Sequence[NewEvent],
) -> AttemptResult:
    charged = step.attempt + step.losses > claim.attempt + claim.losses
    if vram_wait:
        delay_s = VRAM_RETRY_S
    else:
        delay_s = retry_delay_s(timings, step.attempt + step.losses) if charged else 0.0
    error = (
        error_of(claim, step.last_reason, classification) if step.last_reason and charged else None
    )
    retry = NewEvent(
        code=Code.RETRY,
        message=f"step {claim.name} goes back to the queue: {step.last_reason or 'memory is busy'}",
        level="WARNING",
        step_id=claim.step_id,
        payload={
            "attempt": step.attempt,
            "losses": step.losses,
            "delay_s": round(delay_s, 3),
            "reason": step.last_reason,
            "last_error": error,
        },
    )
    return AttemptResult(
        state=step.state,
        reason=None,
        attempt=step.attempt,
        losses=step.losses,
        error=error,
        delay_s=delay_s,
        vram_wait=vram_wait,
        # Waiting for memory says so once, not every two seconds for five minutes.
        events=[*pending] if vram_wait and claim.vram_waited_s else [*pending, retry],
    )
