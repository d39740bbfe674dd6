"""What a worker lends to each of its steps, and what the parts of one step's driver share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.artifact_store import ArtifactStore
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
    """The step's side: one claim, from its slot to its verdict.

    `evidence` gathers the evidence, `recorder` what is told, `post` is how a part reports to the
    driver, which alone decides.
    """

    claim: Claim
    slot: Slot
    worker: WorkerContext
    evidence: EvidenceRecorder
    recorder: EventRecorder
    post: Post
