"""The vocabulary of the state machine: what a step is, what may happen to it, what then follows."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from shared.states import Reason, StepState

S = StepState


class EventKind(StrEnum):
    """What may happen to a step."""

    CLAIMED = "claimed"
    HEADROOM = "headroom"
    VRAM_BUSY = "VRAM busy"
    VRAM_WAIT_OVER = "VRAM wait over"
    UNREADABLE = "unreadable"  # the stored step is not one that this release can run
    READY = "READY"
    RUNNING_COMMITTED = "running committed"
    RESULT = "RESULT"
    FAILURE = "error frame"
    EXIT = "exit"
    PROTOCOL_ERROR = "protocol error"
    CANCEL = "cancel"
    DRAIN = "drain"
    LEASE_GONE = "lease gone"
    TREE_GONE = "tree gone"
    VERIFIED = "verified"
    PUBLISHED = "published"
    LEASE_EXPIRED = "lease expired"
    # Timers.
    QUEUE_TIMEOUT = "queue timeout"
    READY_TIMEOUT = "no READY in time"
    START_TIMEOUT = "no start in time"
    TIMEOUT = "timeout"
    STORE_AWAY = "store away"  # the timeout, while the runner waits for the object store
    EXIT_GRACE_OVER = "exit grace over"
    TERM_GRACE_OVER = "term grace over"
    KILL_DEADLINE = "kill deadline"
    RECLAIM_DEADLINE = "reclaim deadline"
    PUBLISH_DEADLINE = "publish deadline"


K = EventKind


class Effect(StrEnum):
    """What the executor must now do, in the order of the row."""

    CHECK_HEADROOM = "check headroom"
    SPAWN = "spawn"
    COMMIT_RUNNING = "commit running"
    GO = "GO"
    RECORD = "record state"  # in the database; the kill chain does not wait for it
    CANCEL_POLITELY = "polite cancel"
    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"
    VERIFY = "verify"
    FREE_SLOT = "free slot"
    QUARANTINE_SLOT = "quarantine slot"
    PUBLISH = "publish"
    COMMIT = "commit"  # the end, or the return to the queue: one transaction
    ARM_READY = "arm ready"
    ARM_START = "arm start deadline"
    ARM_TIMEOUT = "arm timeout"
    ARM_EXIT_GRACE = "arm exit grace"
    ARM_TERM_GRACE = "arm term grace"
    ARM_KILL = "arm kill deadline"
    ARM_RECLAIM = "arm reclaim deadline"
    ARM_PUBLISH = "arm publish deadline"


E = Effect


class Signal(StrEnum):
    """How far the kill chain has gone."""

    NONE = "none"
    TERM = "term"
    KILL = "kill"


class SlotVerdict(StrEnum):
    """What became of the slot that a step used."""

    FREE = "free"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Where a step is. The second group belongs to one claim; a return to the queue resets it."""

    state: StepState
    epoch: int = 0
    attempt: int = 0
    losses: int = 0
    max_attempts: int = 3
    max_losses: int = 5
    cancel_requested: bool = False
    reason: Reason | None = None  # why it ended; terminal states only
    last_reason: Reason | None = None  # what ended the latest execution
    vram_wait: bool = False  # it waits for memory of the device, or is stopped in order to wait

    spawned: bool = False
    ready: bool = False
    go_sent: bool = False  # so `attempt` was charged
    intent: Reason | None = None
    evidence: Reason | None = None
    signal: Signal = Signal.NONE
    slot: SlotVerdict | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A fact. Only `TREE_GONE` and `KILL_DEADLINE` carry a `reason`: the classification."""

    kind: EventKind
    reason: Reason | None = None


Guard = Callable[[Step], bool]
Change = Callable[[Step, Event], Step]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One rule. Without a target, `verdict` decides. The first row whose guard holds applies."""

    source: StepState
    kind: EventKind
    target: StepState | None
    changes: tuple[Change, ...] = ()
    effects: tuple[Effect, ...] = ()
    guard: Guard | None = None


class IllegalEvent(Exception):
    """The table has no row for this event in this state: the caller has a bug."""


def outcome(step: Step) -> Reason:
    """What ended this execution: our own intent first, then the evidence."""
    reason = step.intent or step.evidence
    if reason is None:
        raise IllegalEvent(f"a {step.state} step ended without intent or evidence")
    return reason
