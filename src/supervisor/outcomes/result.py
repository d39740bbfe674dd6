"""Builds the record of how an execution ended, for the database and the user."""

from pathlib import Path
from typing import Any

from shared.events import Code, NewEvent
from shared.presets import presets
from shared.retry import backoff_s
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim
from shared.timings import Timings
from supervisor.lifecycle.step import Step
from supervisor.outcomes.classify import Classification
from supervisor.outcomes.evidence import EvidenceRecorder
from supervisor.outcomes.memory_report import ABOUT_MEMORY, memory_report

# A step whose device is busy is claimed again after this long.
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


def retry_delay_s(timings: Timings, failures: int) -> float:
    """The pause before a step is tried again. Steps that failed together do not return together."""
    return backoff_s(failures, first_s=timings.retry_base_s, most_s=timings.retry_cap_s, jitter=1.0)


def error_of(claim: Claim, reason: Reason, classification: Classification) -> dict[str, Any]:
    """The error object: the classification's message where that decided, ours otherwise."""
    message = classification.message
    if classification.reason is not reason:
        message = _MESSAGES.get(reason, reason.value).format(timeout_s=claim.timeout_s)
    return {"code": reason.value, "message": message, "details": classification.details}


def exhausted(attempt: int, losses: int, last_error: dict[str, Any] | None) -> dict[str, Any]:
    """The error of a step that was tried as often as allowed."""
    return {
        "code": Reason.ATTEMPTS_EXHAUSTED.value,
        "message": f"gave up after {attempt} attempts and {losses} losses",
        "details": {"attempts": attempt, "losses": losses, "last_error": last_error},
    }


def build_result(
    claim: Claim, step: Step, evidence: EvidenceRecorder, timings: Timings, presets_dir: Path | None
) -> AttemptResult:
    """How the execution that led to `step` ended, with the events that say so."""
    figures, delay_s = evidence.figures(), 0.0
    events = _memory_events(claim, figures)
    if step.state is StepState.QUEUED:
        delay_s, error = _retry_of(claim, step, evidence, timings)
        events.append(_retry_event(claim, step, delay_s, error))
        if step.vram_wait:
            # It is recorded once, not every two seconds for five minutes.
            events = [] if claim.vram_waited_s else events[-1:]
    else:
        error = _final_error(claim, step, evidence, presets_dir)
        events.append(_finish_event(claim, step, figures))
    return AttemptResult(
        state=step.state,
        reason=step.reason,
        attempt=step.attempt,
        losses=step.losses,
        error=error,
        delay_s=delay_s,
        vram_wait=step.vram_wait and step.state is StepState.QUEUED,
        events=events,
    )


def _retry_of(
    claim: Claim, step: Step, evidence: EvidenceRecorder, timings: Timings
) -> tuple[float, dict[str, Any] | None]:
    """The pause before the next attempt, and the error of this one if it was charged."""
    if step.vram_wait:
        return VRAM_RETRY_S, None
    if step.attempt + step.losses <= claim.attempt + claim.losses:
        return 0.0, None
    assert step.last_reason is not None
    delay_s = retry_delay_s(timings, step.attempt + step.losses)
    return delay_s, error_of(claim, step.last_reason, evidence.classify())


def _final_error(
    claim: Claim, step: Step, evidence: EvidenceRecorder, presets_dir: Path | None
) -> dict[str, Any] | None:
    assert step.reason is not None
    if step.reason is Reason.COMPLETED:
        return None
    if step.reason is Reason.ATTEMPTS_EXHAUSTED:
        assert step.last_reason is not None
        last_error = error_of(claim, step.last_reason, evidence.classify())
        return exhausted(step.attempt, step.losses, last_error)
    error = error_of(claim, step.reason, evidence.classify())
    error["details"] = error["details"] | evidence.figures()
    if step.reason in ABOUT_MEMORY:  # no other: a step that could not be read has no size
        candidates = presets(presets_dir).values()
        error["details"] |= memory_report(claim, evidence.before, evidence.peak_bytes, candidates)
    return error


def _retry_event(
    claim: Claim, step: Step, delay_s: float, error: dict[str, Any] | None
) -> NewEvent:
    return NewEvent(
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


def _finish_event(claim: Claim, step: Step, figures: dict[str, Any]) -> NewEvent:
    return NewEvent(
        code=Code.STEP_FINISH,
        message=f"step {claim.name} {step.state}: {step.reason}",
        level="ERROR" if step.state is StepState.FAILED else "INFO",
        step_id=claim.step_id,
        payload={"step": claim.name, "state": step.state, "reason": step.reason, **figures},
    )


def _memory_events(claim: Claim, figures: dict[str, Any]) -> list[NewEvent]:
    """What the device held before, at most and after; no event if it was never read."""
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
