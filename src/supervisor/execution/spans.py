"""The spans of an execution, made of its timeline when it is over, and of what the rescuer decided.

    generate                  from the moment it could be claimed to its verdict
    ├─ queue                  until the claim
    ├─ start                  until GO: headroom, spawn or standby, READY, `running` committed
    ├─ run                    until the runner ends, or we begin to end it
    │  ├─ load
    │  └─ item 0 …            from its first progress to the whole picture
    ├─ stop                   until its whole tree is gone
    ├─ reclaim                until the memory is proven back
    ├─ publish                until the last picture has its row
    ├─ verdict                until it is written
    └─ upload 0 …             from the picture to its row; beside the others

The parent of all is the request that created the job. No span is held open while a step runs, so a
worker that is killed leaves no half a trace: that execution is missing, and the span of the rescuer
says why. No prompt, no user and no key is in any attribute.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

from shared.states import Reason, StepState
from shared.step_store import AttemptResult, OrphanedStep
from shared.telemetry.spans import Span, Tracer, Value
from shared.telemetry.traceparent import parse
from supervisor.execution.context import Execution
from supervisor.lifecycle.step import Step
from supervisor.recording.timeline import Period, Timeline

log = logging.getLogger(__name__)

_PHASES = {
    StepState.LEASED: "start",
    StepState.RUNNING: "run",
    StepState.STOPPING: "stop",
    StepState.RECLAIMING: "reclaim",
    StepState.PUBLISHING: "publish",
}
_NO_ERROR = frozenset({Reason.COMPLETED, Reason.CANCELLED, Reason.DRAINED})
_FIGURES = ("gpu_mem_used_before", "gpu_mem_used_after", "peak_gpu_mem_used")


def trace_execution(execution: Execution, result: AttemptResult | None) -> None:
    """Emit the spans of an execution. `result` is None when the verdict was not ours to write."""
    claim, tracer = execution.claim, execution.worker.tracer
    if result is not None and result.vram_wait and claim.vram_waited_s > 0:
        return  # it reads a busy device every two seconds; one trace of that is enough
    fields = execution.recorder.fields
    _emit(tracer, claim.traceparent, lambda: _span_of(execution, result), fields)


def trace_rescue(tracer: Tracer | None, orphan: OrphanedStep, result: AttemptResult) -> None:
    """Emit a span that says what became of a step whose owner is gone."""
    fields = {"job_id": str(orphan.job_id)}
    _emit(tracer, orphan.traceparent, lambda: _span_of_rescue(orphan, result), fields)


def _emit(
    tracer: Tracer | None,
    traceparent: str | None,
    build: Callable[[], Span],
    fields: dict[str, str],
) -> None:
    """Emit a span below the request that created the job, if that is traced.

    Never raises: an error here may cost a trace and nothing else.
    """
    parent = parse(traceparent)
    if tracer is None or parent is None or not parent.sampled:
        return
    try:
        tracer.emit(build(), parent)
    except Exception:
        log.exception("the execution could not be traced", extra=fields)


def _span_of_rescue(orphan: OrphanedStep, result: AttemptResult) -> Span:
    now_ns = time.time_ns()
    reason = result.reason or Reason.LEASE_LOST
    error = _error(result, reason)
    return Span(
        name=f"sweep {orphan.name}",
        start_ns=now_ns,
        end_ns=now_ns,
        attributes={
            "dreamforge.job.id": str(orphan.job_id),
            "dreamforge.step.id": str(orphan.id),
            "dreamforge.step.name": orphan.name,
            "dreamforge.correlation_id": orphan.correlation_id,
            "dreamforge.attempt": result.attempt,
            "dreamforge.losses": result.losses,
            **_outcome(result.state, reason, error),
        },
        error=error,
    )


def _span_of(execution: Execution, result: AttemptResult | None) -> Span:
    """The execution as a tree of spans."""
    claim, timeline = execution.claim, execution.timeline
    stored = {name: upload for name, upload in timeline.uploads.items() if upload.end_ns}
    over_ns = timeline.now()
    claimed_ns = timeline.events[0].at_ns if timeline.events else over_ns
    due_ns = claimed_ns - round(max(claim.queued_s, claim.vram_waited_s) * 1e9)
    reason = _reason(execution.step, result)
    error = _error(result, reason)
    state = None if result is None else result.state
    return Span(
        name=claim.name,
        start_ns=due_ns,
        end_ns=over_ns,
        attributes=_attributes(execution) | _outcome(state, reason, error),
        error=error,
        events=[(event.at_ns, event.kind.value) for event in timeline.events],
        children=[
            Span(name="queue", start_ns=due_ns, end_ns=claimed_ns),
            *_phases(timeline, over_ns, error),
            *_parts(stored, over_ns, None),
        ],
    )


def _phases(timeline: Timeline, over_ns: int, error: str | None) -> Iterator[Span]:
    """One span per state; the machine may stay in a state for several events."""
    moves = [next(events) for _, events in groupby(timeline.events, lambda event: event.state)]
    ends = [*(event.at_ns for event in moves[1:]), over_ns]
    for event, end_ns in zip(moves, ends, strict=True):
        running = event.state is StepState.RUNNING
        yield Span(
            name=_PHASES.get(event.state, "verdict"),
            start_ns=event.at_ns,
            end_ns=end_ns,
            children=list(_parts(timeline.work, end_ns, error)) if running else [],
        )


def _parts(periods: Mapping[str, Period], over_ns: int, error: str | None) -> Iterator[Span]:
    """One span per period. One that was not finished lasts to the end, with its error."""
    for name, period in periods.items():
        start_ns, end_ns, index = period.start_ns, period.end_ns, period.item_index
        yield Span(
            name=name,
            start_ns=start_ns,
            end_ns=max(start_ns, over_ns) if end_ns is None else end_ns,
            attributes={} if index is None else {"dreamforge.item_index": index},
            error=error if end_ns is None else None,
        )


def _attributes(execution: Execution) -> dict[str, Value]:
    claim, step, device = execution.claim, execution.step, execution.slot.device
    figures = execution.evidence.figures()
    values: dict[str, Any] = {
        "dreamforge.job.id": str(claim.job_id),
        "dreamforge.step.id": str(claim.step_id),
        "dreamforge.step.name": claim.name,
        "dreamforge.step.type": claim.type,
        "dreamforge.correlation_id": claim.correlation_id,
        "dreamforge.attempt": step.attempt,
        "dreamforge.losses": step.losses,
        "dreamforge.epoch": claim.epoch,
        "dreamforge.count": claim.count,
        "dreamforge.gpu.index": device.index,
        "dreamforge.gpu.uuid": device.id,
        "dreamforge.preset": claim.preset.get("name"),
        "dreamforge.model": claim.model and f"{claim.model.name}@{claim.model.version}",
        "dreamforge.signals": ",".join(figures["signals"]) or None,
        **{f"dreamforge.{name}": figures[name] for name in _FIGURES},
    }
    return {name: value for name, value in values.items() if value is not None}


def _outcome(state: StepState | None, reason: Reason | None, error: str | None) -> dict[str, Value]:
    values: dict[str, Value] = {"dreamforge.outcome": "stale" if state is None else state.value}
    if reason is not None:
        values["dreamforge.reason"] = reason.value
        if error is not None:
            values["error.type"] = reason.value
    return values


def _reason(step: Step, result: AttemptResult | None) -> Reason | None:
    """Why it ended; None when it returns to the queue because the memory is busy."""
    if result is None:
        return Reason.LEASE_LOST
    return result.reason or (None if result.vram_wait else step.last_reason)


def _error(result: AttemptResult | None, reason: Reason | None) -> str | None:
    if reason is None or reason in _NO_ERROR:
        return None
    message = (result.error or {}).get("message") if result is not None else None
    return str(message or reason.value)
