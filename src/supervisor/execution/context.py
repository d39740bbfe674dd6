"""What a worker lends to each of its steps, and what the parts of one execution share."""

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import UUID

import anyio

from shared.errors import InfraUnavailable
from shared.protocol.messages import Preview
from shared.retry import retry
from shared.settings import Settings
from shared.states import Reason, StepState
from shared.step_store import Claim, PinnedModel, StepStore
from shared.telemetry.spans import Tracer
from shared.timings import Timings
from supervisor.devices.device import DeviceProbe
from supervisor.execution.byte_budget import ByteBudget
from supervisor.execution.fence import Fence
from supervisor.execution.host_memory import HostMemory
from supervisor.execution.picture_store import PictureStore
from supervisor.lifecycle.step import Event, EventKind, Step
from supervisor.metrics import Metrics
from supervisor.outcomes.evidence import EvidenceRecorder
from supervisor.processes.tree import ProcessTree
from supervisor.recording.event_recorder import EventRecorder
from supervisor.recording.progress import ProgressReporter
from supervisor.recording.timeline import Timeline
from supervisor.slots.runner_pool import RunnerPool
from supervisor.slots.table import Slot
from supervisor.templates.model_template import WantedModel

log = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_RETRY_S = 0.5

_RUNNER_MAY_LIVE = (StepState.LEASED, StepState.RUNNING, StepState.STOPPING)

# An event, and for a timer the generation that it was armed in.
PostedEvent = tuple[Event, int | None]


class Previews(Protocol):
    """Where previews go, and who looks at them."""

    async def watched(self, job_ids: Collection[UUID]) -> set[UUID]:
        """Those jobs that a client looks at now. Never raises: nobody looks where it is unknown."""

    def publish(self, job_id: UUID, preview: Preview, jpeg: bytes) -> None:
        """Send it to whoever looks. Never waits, never raises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerContext:
    """The worker's side: its settings, the outside world, and what this host can run.

    Everything in it outlives a step.
    """

    settings: Settings
    timings: Timings
    metrics: Metrics
    store: StepStore
    objects: PictureStore
    probe: DeviceProbe
    runners: RunnerPool
    byte_budget: ByteBudget
    models: Callable[[], tuple[UUID, ...]]
    model_folder: Callable[[PinnedModel], Path]
    tracer: Tracer | None
    previews: Previews | None = None
    host_memory: HostMemory = field(default_factory=HostMemory)


class Execution:
    """One claim, from its slot to its verdict: what its parts share.

    Parts report facts with `post`; the executor alone decides what follows, and moves `step`.
    """

    def __init__(self, claim: Claim, slot: Slot, worker: WorkerContext, *, sent: float) -> None:
        """`sent` is the boot time at which the claim was sent: the lease counts from then."""
        settings, timings = worker.settings, worker.timings
        self.claim = claim
        self.slot = slot
        self.worker = worker
        self.step = Step(
            state=StepState.QUEUED,
            epoch=claim.epoch - 1,
            attempt=claim.attempt,
            losses=claim.losses,
            max_attempts=settings.max_attempts,
            max_losses=settings.max_losses,
        )
        self.fence = Fence(sent=sent, fence_s=timings.fence_s, deadman_s=timings.deadman_s)
        self.model: WantedModel | None = None  # what its runner loads, once the step was read
        self.tree: ProcessTree | None = None  # of its runner, once there is one
        self.evidence = EvidenceRecorder()
        self.timeline = Timeline()
        self.recorder = EventRecorder(claim, worker.store, on_stale=self._lose_lease)
        self.progress = ProgressReporter(claim, self.recorder, self.timeline)
        self._send_event, self.events = anyio.create_memory_object_stream[PostedEvent](math.inf)

    @property
    def runner_may_live(self) -> bool:
        return self.step.state in _RUNNER_MAY_LIVE

    def post(
        self, kind: EventKind, reason: Reason | None = None, *, generation: int | None = None
    ) -> None:
        """Report a fact to the state machine. Never waits.

        With a `generation`, it counts only while the executor is in that one.
        """
        self._send_event.send_nowait((Event(kind, reason), generation))

    def _lose_lease(self) -> None:
        self.post(EventKind.LEASE_GONE)

    def close(self) -> None:
        """Take no more facts."""
        self._send_event.close()
        self.events.close()

    async def retry(
        self, attempt: Callable[[], Awaitable[T]], pauses: Iterable[float], waiting: str
    ) -> T:
        """Attempt until the database and the store do their part; log each failure as `waiting`."""

        def log_failure(error: InfraUnavailable, pause_s: float) -> None:
            log.warning("%s: %s", waiting, error, extra=self.recorder.fields)

        return await retry(attempt, on=InfraUnavailable, pauses=pauses, on_failure=log_failure)
