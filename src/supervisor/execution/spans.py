"""The spans of a try, made of its timeline when it is over, and of what the rescuer decided.

    generate                  from the moment it could be claimed to its verdict
    ├─ queue                  until the claim
    ├─ start                  until GO: headroom, spawn or standby, READY, `running` committed
    ├─ run                    until the runner ends, or is told to
    │  ├─ load
    │  └─ item 0 …            from its first word to the whole picture
    ├─ stop                   until its whole tree is gone
    ├─ reclaim                until the memory is proven back
    ├─ publish                until the last picture has its row
    ├─ verdict                until it is written
    └─ upload 0 …             from the picture to its row; beside the others

The parent of all is the request that made the job, whoever answered it and whenever. Nothing is
held open while a step runs, so a worker that is killed leaves no half a trace: that try is missing,
and the rescuer says why. No prompt, no user and no key is in any attribute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim, OrphanedStep
from shared.telemetry.spans import Span, Tracer, Value
from shared.telemetry.traceparent import parse
from supervisor.execution.context import Execution
from supervisor.lifecycle.step import Step
from supervisor.recording.timeline import Timeline

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


def trace_execution(
    execution: Execution, timeline: Timeline, step: Step, end: AttemptResult | None
) -> None:
    """Hand over what there is to see of a try. `end` is None where it was not ours to write.

    Never raises: whatever is wrong here has to cost a trace and nothing else.
    """
    tracer, parent = execution.worker.tracer, parse(execution.claim.traceparent)
    if (
        tracer is None
        or parent is None
        or not parent.sampled
        or _says_nothing(execution.claim, end)
    ):
        return
    try:
        tracer.emit(span_of(execution, timeline, step, end), parent)
    except Exception:
        log.exception("the try could not be traced", extra=execution.recorder.fields)


def trace_rescue(tracer: Tracer | None, found: OrphanedStep, end: AttemptResult) -> None:
    """Hand over what became of a step whose owner is gone; the rest of its try is with that one."""
    parent = parse(found.traceparent)
    if tracer is None or parent is None or not parent.sampled:
        return
    now = time.time_ns()
    reason = Reason.LEASE_LOST if end.reason is None else end.reason
    attributes: dict[str, Value] = {
        "dreamforge.job.id": str(found.job_id),
        "dreamforge.step.id": str(found.id),
        "dreamforge.step.name": found.name,
        "dreamforge.correlation_id": found.correlation_id,
        "dreamforge.attempt": end.attempt,
        "dreamforge.losses": end.losses,
    }
    try:
        error = _error(end, reason)
        attributes |= _outcome(end.state, reason, error)
        swept = Span(
            name=f"sweep {found.name}", start_ns=now, end_ns=now, attributes=attributes, error=error
        )
        tracer.emit(swept, parent)
    except Exception:
        log.exception("the sweep could not be traced", extra={"job_id": str(found.job_id)})


def span_of(
    execution: Execution, timeline: Timeline, step: Step, end: AttemptResult | None
) -> Span:
    """The try as a tree of spans."""
    claim, over_ns = execution.claim, timeline.now()
    claimed_ns = timeline.events[0].at_ns if timeline.events else over_ns
    due_ns = claimed_ns - round(max(claim.queued_s, claim.vram_waited_s) * 1e9)
    reason = _reason(step, end)
    error = _error(end, reason)
    return Span(
        name=claim.name,
        start_ns=due_ns,
        end_ns=over_ns,
        attributes=_about(execution, step) | _outcome(end.state if end else None, reason, error),
        error=error,
        events=[(fact.at_ns, fact.kind.value) for fact in timeline.events],
        children=[
            Span(name="queue", start_ns=due_ns, end_ns=claimed_ns),
            *_phases(timeline, over_ns, error),
            *_uploads(timeline),
        ],
    )


def _phases(timeline: Timeline, over_ns: int, error: str | None) -> Iterator[Span]:
    """One span per state, in which the machine stays for some facts."""
    moves = [
        fact
        for before, fact in zip([None, *timeline.events], timeline.events, strict=False)
        if before is None or before.state is not fact.state
    ]
    ends = [*(fact.at_ns for fact in moves[1:]), over_ns]
    for fact, end_ns in zip(moves, ends, strict=True):
        inside = list(_inside_run(timeline, end_ns, error)) if fact.state == "running" else []
        yield Span(
            name=_PHASES.get(fact.state, "verdict"),
            start_ns=fact.at_ns,
            end_ns=end_ns,
            children=inside,
        )


def _inside_run(timeline: Timeline, end_ns: int, error: str | None) -> Iterator[Span]:
    """What did not come to its end goes on to the end of the run, with the error of the try."""
    if timeline.loading_ns is not None:
        yield _cut("load", timeline.loading_ns, timeline.loaded_ns, end_ns, error)
    for index, item in sorted(timeline.items.items()):
        attributes: dict[str, Value] = {"dreamforge.item_index": index}
        yield _cut(f"item {index}", item.began_ns, item.received_ns, end_ns, error, attributes)


def _cut(
    name: str,
    start_ns: int,
    done_ns: int | None,
    end_ns: int,
    error: str | None,
    attributes: dict[str, Value] | None = None,
) -> Span:
    finished = done_ns is not None
    return Span(
        name=name,
        start_ns=start_ns,
        end_ns=max(start_ns, end_ns) if done_ns is None else done_ns,
        attributes=attributes or {},
        error=None if finished else error,
    )


def _uploads(timeline: Timeline) -> Iterator[Span]:
    for index, item in sorted(timeline.items.items()):
        if item.received_ns is not None and item.stored_ns is not None:
            yield Span(
                name=f"upload {index}",
                start_ns=item.received_ns,
                end_ns=item.stored_ns,
                attributes={"dreamforge.item_index": index},
            )


def _about(execution: Execution, step: Step) -> dict[str, Value]:
    claim, device, figures = execution.claim, execution.slot.device, execution.evidence.figures()
    found: dict[str, Any] = {
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
    }
    found |= {f"dreamforge.{name}": figures[name] for name in _FIGURES}
    return {name: value for name, value in found.items() if value is not None}


def _outcome(state: StepState | None, reason: Reason | None, error: str | None) -> dict[str, Value]:
    found: dict[str, Value] = {"dreamforge.outcome": "stale" if state is None else state.value}
    if reason is not None:
        found["dreamforge.reason"] = reason.value
        if error is not None:
            found["error.type"] = reason.value
    return found


def _reason(step: Step, end: AttemptResult | None) -> Reason | None:
    """Why it ended; None when it goes back because the memory is busy."""
    if end is None:
        return Reason.LEASE_LOST
    return end.reason or (None if end.vram_wait else step.last_reason)


def _error(end: AttemptResult | None, reason: Reason | None) -> str | None:
    if reason is None or reason in _NO_ERROR:
        return None
    message = (end.error or {}).get("message") if end is not None else None
    return str(message or reason.value)


def _says_nothing(claim: Claim, end: AttemptResult | None) -> bool:
    """It looks at a busy device every two seconds; the first look is enough to know."""
    return end is not None and end.vram_wait and claim.vram_waited_s > 0
