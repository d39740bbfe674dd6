"""What a worker lends to each of its steps, and what the parts of one execution share."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from shared.artifact_store import ArtifactStore
from shared.errors import InfraUnavailable
from shared.retry import retry
from shared.settings import Settings
from shared.states import Reason
from shared.step_store import Claim, StepStore
from shared.telemetry.spans import Tracer
from shared.timings import Timings
from supervisor.devices.device import DeviceProbe
from supervisor.execution.byte_budget import ByteBudget
from supervisor.lifecycle.step import EventKind
from supervisor.metrics import Metrics
from supervisor.outcomes.evidence import EvidenceRecorder
from supervisor.processes.tree import ProcessTree
from supervisor.recording.event_recorder import EventRecorder
from supervisor.slots.runner_pool import RunnerPool
from supervisor.slots.table import Slot

log = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_RETRY_S = 0.5


class Post(Protocol):
    """Report a fact to the state machine. Never waits."""

    def __call__(self, kind: EventKind, reason: Reason | None = None) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerContext:
    """The worker's side: everything that outlives a step."""

    settings: Settings
    timings: Timings
    store: StepStore
    objects: ArtifactStore
    probe: DeviceProbe
    runners: RunnerPool
    byte_budget: ByteBudget
    metrics: Metrics
    model_folder: Callable[[Claim], str | None]
    on_free: Callable[[Slot], None]
    on_unclean: Callable[[Slot, ProcessTree | None], None]
    tracer: Tracer | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """One claim, from its slot to its verdict: the step's side.

    Parts report facts with `post`; the executor alone decides what follows.
    """

    claim: Claim
    slot: Slot
    worker: WorkerContext
    evidence: EvidenceRecorder
    recorder: EventRecorder
    post: Post

    async def retry(
        self, attempt: Callable[[], Awaitable[T]], pauses: Iterable[float], waiting: str
    ) -> T:
        """Attempt until the database and the store do their part; log each failure as `waiting`."""

        def log_failure(error: InfraUnavailable, pause_s: float) -> None:
            log.warning("%s: %s", waiting, error.message, extra=self.recorder.fields)

        return await retry(attempt, on=InfraUnavailable, pauses=pauses, on_failure=log_failure)
