"""What a worker holds while it owns a step, and what it reports back.

`StepStore` is the interface between the supervisor and the system of record, and
`shared.db.step_store` implements it. Every write names the claim's id, epoch and owner. A store
that finds others, or a state without an owner, raises `Stale` and has written nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from shared.events import Code, NewEvent
from shared.models.descriptor import PartSize
from shared.states import Reason, StepState

# Rules of the claim (`shared.db.claim`): how many older steps of its user one with a loaded model
# may pass, and how often each may be passed so. It saves some seconds: worth a few places, and
# never a long wait.
PASSES = 8
PASSED = 8
# What the newest execution counts in the mean of a user's seconds: the last five or so decide.
NEWEST = 0.2

# The `error` of every job and step that ended on request.
CANCELLED_ERROR: dict[str, Any] = {
    "code": Reason.CANCELLED.value,
    "message": "the job was cancelled on request",
    "details": {},
}


class Stale(Exception):
    """Another worker owns the step by now. Not an error: stop, clean up, write nothing."""


class CancelRequested(Exception):
    """A cancel was requested that the owner did not see. Not an error: the step ends instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRequest:
    """What a free slot can run."""

    worker_id: UUID
    slot: str  # its name, as the claim's event says it
    queues: tuple[str, ...]
    device: str
    capacity_bytes: int
    models: tuple[UUID, ...]  # verified on this host
    lease_s: float
    warm: tuple[UUID, ...] = ()  # models that are loaded here; preferred within a bound
    # What the slot is kept for; nothing: for every step.
    priorities: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    max_passed_s: float = 600.0  # how long higher priorities may pass a step
    overdue: bool = True  # whether a step that was passed for so long goes first


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedModel:
    """The model that a step was accepted for, with the checkpoint of that moment."""

    id: UUID
    name: str
    version: str
    kind: str
    checkpoint_sha256: str
    parts: Mapping[str, PartSize] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UpcomingStep:
    """A step that waits, as a worker needs it to prepare. No worker owns it yet."""

    type: str
    model: PinnedModel | None  # None: the step needs no model
    preset: dict[str, Any]
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredArtifact:
    """An object that is in the store. Sizes of pictures are pixels."""

    item_index: int
    format: str
    width: int
    height: int
    seed: int
    s3_key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedInput:
    """A picture that a user sent and the step starts from. `item_index` is its place among them.

    Sizes are pixels with the orientation applied. `steps.inputs` has these fields, as JSON.
    """

    item_index: int
    role: str
    id: str
    format: str
    width: int
    height: int
    orientation: int
    s3_key: str
    sha256: str
    size_bytes: int


StepInput = StoredArtifact | PinnedInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A step that this worker owns until its lease ends.

    `epoch` and `lease_owner` fence every write.
    """

    step_id: UUID
    job_id: UUID
    user: str
    epoch: int
    lease_owner: UUID
    attempt: int
    losses: int
    cancel_requested: bool
    vram_waited_s: float
    name: str
    type: str
    params: dict[str, Any]
    count: int
    preset: dict[str, Any]
    vram_bytes: int
    timeout_s: float
    model: PinnedModel | None  # None: the step needs no model
    correlation_id: str
    client_request_id: str | None = None  # what the client calls the request that made the job
    traceparent: str | None = None  # the span of that request, if there is one
    done_items: tuple[int, ...] = ()
    # What the step before it in its chain made, by item; of a first step what users sent.
    inputs: tuple[StepInput, ...] = ()
    position: int = 0  # of the step in its chain
    chain_length: int = 1
    progress: float = 0.0  # what clients have been shown of the job; it never goes back
    queued_s: float = 0.0  # from the moment it could be claimed until it was
    unreadable: str | None = None  # what of the row no release of ours has written
    overdue: bool = False  # claimed before higher ones, because they had passed it for too long


def claim_events(claim: Claim, slot: str) -> list[NewEvent]:
    """What the job's record gets with the claim, in its transaction.

    Nothing while a step waits for memory: it is claimed again every two seconds.
    """
    if claim.vram_waited_s:
        return []
    return [
        NewEvent(
            code=Code.STEP_CLAIMED,
            message=f"step {claim.name} claimed for {slot}",
            step_id=claim.step_id,
            payload={"step": claim.name, "slot": slot, "epoch": claim.epoch},
        )
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """How an attempt ended. `state` is terminal, or `queued` for the next one after `delay_s`."""

    state: StepState
    reason: Reason | None  # terminal states only
    attempt: int
    losses: int
    error: dict[str, Any] | None = None
    delay_s: float = 0.0
    vram_wait: bool = False  # back to the queue because the device's memory is busy
    events: Sequence[NewEvent] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True, slots=True)
class OrphanedStep:
    """A stored step without a living owner, as the rescuer finds it. Its locks are held."""

    id: UUID
    job_id: UUID
    name: str
    state: StepState
    epoch: int
    attempt: int
    losses: int
    cancel_requested: bool
    correlation_id: str
    traceparent: str | None = None


# How the attempt of a step without a living owner ended. It runs inside the rescuer's transaction,
# perhaps twice: it must be pure.
Decide = Callable[[OrphanedStep], AttemptResult]
# A step as it was found, and what the rescue made of it.
Rescue = tuple[OrphanedStep, AttemptResult]


class StepStore(Protocol):
    """The system of record, as an owner of steps sees it. All raise `InfraUnavailable`."""

    async def claim(self, request: ClaimRequest) -> Claim | None:
        """Take the due step whose turn it is, of those that fit, or None; `shared.db.claim` has the
        rules. A step without a model fits every host. Records `claim_events`."""

    async def due_next(self, request: ClaimRequest, limit: int) -> Sequence[UpcomingStep]:
        """At most `limit` steps that `claim` would give this slot next, in that order.

        It takes no lock and changes nothing, so any of them may be gone a moment later.
        """

    async def commit_running(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        """`leased` becomes `running`, `attempt` rises. GO may be sent once this returned."""

    async def record(
        self, claim: Claim, state: StepState | None, events: Sequence[NewEvent]
    ) -> None:
        """Note where the step is, and what happened."""

    async def renew(self, claim: Claim, lease_s: float) -> None:
        """Extend the lease to `lease_s` from the server's now."""

    async def add_artifact(self, claim: Claim, artifact: StoredArtifact, event: NewEvent) -> bool:
        """Insert the row; False when the item had one already and nothing was written."""

    async def finish(self, claim: Claim, end: AttemptResult) -> UUID | None:
        """Write the verdict once; return the id of the step that may be claimed next: this one if
        it goes back to the queue. None: the job has ended, too.

        Raises `CancelRequested`, with nothing written, instead of a return to the queue where a
        cancel was requested. Writing a verdict again whose answer was lost changes nothing.
        """

    async def requested_cancels(self, worker_id: UUID) -> set[UUID]:
        """Steps of this worker whose cancel was requested."""

    async def release_unacknowledged(
        self, worker_id: UUID, known: Collection[tuple[UUID, int]]
    ) -> int:
        """Requeue, uncharged and with a new epoch, steps whose claim this worker got no answer for.

        `known` are the steps and epochs of the claims that were answered. Returns how many.
        """

    async def rescue_expired(self, decide: Decide) -> Rescue | None:
        """Take one step from an owner whose lease ended; None when there is none.

        Returns what `decide` made of the step in the transaction that was committed.
        """

    async def rescue_unclaimed(self, decide: Decide, after_s: float) -> Rescue | None:
        """End one step that no worker has claimed within `after_s` seconds."""
