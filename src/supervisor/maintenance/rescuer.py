"""Rescues steps whose owner is gone, and ends steps that no worker claims.

Every worker does this; there is no leader.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from shared.events import Code, NewEvent
from shared.settings import Settings
from shared.states import STATUS_OF, Reason, StepState
from shared.step_store import CANCELLED_ERROR, AttemptResult, OrphanedStep, Rescue, StepStore
from shared.telemetry.spans import Tracer
from shared.timings import TIMINGS, Timings
from supervisor.execution.spans import trace_rescue
from supervisor.lifecycle.machine import advance
from supervisor.lifecycle.step import Event, EventKind, Step
from supervisor.metrics import Metrics
from supervisor.outcomes.result import exhausted, retry_delay_s
from supervisor.recording.event_recorder import log_events

# One pass ends after so many steps, so that a flood of orphaned steps does not starve the rest.
STEPS_PER_PASS = 100


class Rescuer:
    """Applies the lifecycle table's rows for a lost owner to the stored steps."""

    def __init__(
        self,
        store: StepStore,
        settings: Settings,
        metrics: Metrics,
        *,
        timings: Timings = TIMINGS,
        tracer: Tracer | None = None,
    ) -> None:
        self._store = store
        self._tracer = tracer
        self._settings = settings
        self._timings = timings
        self._metrics = metrics

    async def rescue(self) -> int:
        """One pass; return how many steps were moved on."""
        expired = await self._repeat(lambda: self._store.rescue_expired(self._lease_expired))
        late = await self._repeat(
            lambda: self._store.rescue_unclaimed(self._unclaimed, self._settings.queue_timeout_s)
        )
        return expired + late

    async def _repeat(self, rescue_one: Callable[[], Awaitable[Rescue | None]]) -> int:
        for count in range(STEPS_PER_PASS):
            if (rescue := await rescue_one()) is None:
                return count
            # One at a time: PostgreSQL may be away for the next step, and this one is written.
            self._report(*rescue)
        return STEPS_PER_PASS

    def _report(self, orphan: OrphanedStep, result: AttemptResult) -> None:
        self._count(result)
        log_events(
            result.events,
            {
                "job_id": str(orphan.job_id),
                "step_id": str(orphan.id),
                "correlation_id": orphan.correlation_id,
            },
        )
        trace_rescue(self._tracer, orphan, result)

    def _count(self, result: AttemptResult) -> None:
        self._metrics.rescues.inc()
        if result.reason is None:
            self._metrics.retries.labels(reason=Reason.LEASE_LOST).inc()
            return
        # A rescued step has not succeeded, so no later step of its chain runs.
        self._metrics.record_end(result.reason, job=(STATUS_OF[result.state], result.reason))

    def _lease_expired(self, orphan: OrphanedStep) -> AttemptResult:
        lost: dict[str, Any] = {
            "code": Reason.LEASE_LOST.value,
            "message": "the worker that ran the step was not heard of until its lease ended",
            "details": {"state": orphan.state, "epoch": orphan.epoch},
        }
        return self._result(orphan, EventKind.LEASE_EXPIRED, lost, Code.LEASE_EXPIRED)

    def _unclaimed(self, orphan: OrphanedStep) -> AttemptResult:
        late: dict[str, Any] = {
            "code": Reason.TIMEOUT.value,
            "message": f"no worker claimed the step within {self._settings.queue_timeout_s:g} s; "
            "check that a worker serves its queue, device and model",
            "details": {"queue_timeout_s": self._settings.queue_timeout_s},
        }
        return self._result(orphan, EventKind.QUEUE_TIMEOUT, late, Code.STEP_FINISH)

    def _result(
        self, orphan: OrphanedStep, kind: EventKind, error: dict[str, Any], code: Code
    ) -> AttemptResult:
        step, _ = advance(self._step(orphan), Event(kind))
        if step.reason is Reason.ATTEMPTS_EXHAUSTED:
            error = exhausted(step.attempt, step.losses, error)
        elif step.reason is Reason.CANCELLED:
            error = CANCELLED_ERROR
        requeued = step.state is StepState.QUEUED
        delay_s = retry_delay_s(self._timings, step.attempt + step.losses) if requeued else 0.0
        event = NewEvent(
            code=code,
            message=f"step {orphan.name}: {error['message']}",
            level="WARNING" if requeued else "ERROR",
            step_id=orphan.id,
            payload={
                "step": orphan.name,
                "state": step.state,
                "attempt": step.attempt,
                "losses": step.losses,
                "delay_s": round(delay_s, 3),
                "last_error": error,
            },
        )
        return AttemptResult(
            state=step.state,
            reason=step.reason,
            attempt=step.attempt,
            losses=step.losses,
            error=error,
            delay_s=delay_s,
            events=[event],
        )

    def _step(self, orphan: OrphanedStep) -> Step:
        return Step(
            state=orphan.state,
            epoch=orphan.epoch,
            attempt=orphan.attempt,
            losses=orphan.losses,
            max_attempts=self._settings.max_attempts,
            max_losses=self._settings.max_losses,
            cancel_requested=orphan.cancel_requested,
        )
