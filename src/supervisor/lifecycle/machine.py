"""The life of a step, as a table. Sans-IO: no clock, no process, no database.

Theory of operation
-------------------
`advance(step, event)` looks up `(step.state, event.kind)` in `TABLE` and returns the next `Step`
and the effects that somebody has to carry out. That somebody is the driver
(`supervisor.execution.executor`)
for an owned step, the sweeper for an abandoned one, and the API's cancel statement for one that
nobody owns. Whatever they do, they do it because a row here says so.

* Events are facts: a frame arrived, a process is gone, a timer rang. Timers are events like any
  other, so no test needs a clock. A timer belongs to the state that armed it; the driver drops it
  when the state changes.
* An event for which the table has no row is a bug in the caller: `IllegalEvent` is raised and
  nothing has changed. The exception is a terminal state, which absorbs everything.
* A slot is returned to the table only with proof (`VERIFIED`) or taken out of service
  (`QUARANTINE_SLOT`). No row leaves `reclaiming` without one of the two, and none reaches a
  verdict after a runner existed without passing `reclaiming`. That is the product's promise, in
  rows.
* Three counters, three meanings. `epoch` is only a fence: it makes the writes of a former owner
  miss. `attempt` rises when GO is sent. `losses` rises when a try ended before or outside of
  anything the runner did. Both are bounded, so poison cannot circulate.
* The first cause wins. What ended the step is recorded when `stopping` is entered by our own
  decision (`intent`); evidence found later does not replace it. Without an intent, the
  classification that arrives with `TREE_GONE` decides.

Imports are limited to enum, dataclasses, typing and the shared vocabulary of states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.states import OWNED, TERMINAL, TRANSIENT, Reason, StepState

S = StepState

# Decisions, not observations: they come from an intent or from a bound, never from evidence.
_OURS_TO_SAY = frozenset({Reason.CANCELLED, Reason.DRAINED, Reason.ATTEMPTS_EXHAUSTED})


class Kind(StrEnum):
    """What may happen to a step."""

    PREDECESSOR_SUCCEEDED = "predecessor succeeded"
    PREDECESSOR_ENDED = "predecessor ended otherwise"
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
    STORE_AWAY = "store away"  # the timeout of a runner that waits for the store
    EXIT_GRACE_OVER = "exit grace over"
    TERM_GRACE_OVER = "term grace over"
    KILL_DEADLINE = "kill deadline"
    RECLAIM_DEADLINE = "reclaim deadline"
    PUBLISH_DEADLINE = "publish deadline"


class Effect(StrEnum):
    """What somebody must now do, in the order given."""

    CHECK_HEADROOM = "check headroom"
    SPAWN = "spawn"
    COMMIT_RUNNING = "commit running"
    GO = "GO"
    RECORD = "record state"  # durable note of where we are; the kill chain never waits for it long
    CANCEL_POLITELY = "polite cancel"
    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"
    VERIFY = "verify"
    FREE_SLOT = "free slot"
    QUARANTINE_SLOT = "quarantine slot"
    PUBLISH = "publish"
    COMMIT = "commit"  # the verdict, or the way back to the queue: one transaction
    ARM_READY = "arm ready"
    ARM_START = "arm start deadline"
    ARM_TIMEOUT = "arm timeout"
    ARM_EXIT_GRACE = "arm exit grace"
    ARM_TERM_GRACE = "arm term grace"
    ARM_KILL = "arm kill deadline"
    ARM_RECLAIM = "arm reclaim deadline"
    ARM_PUBLISH = "arm publish deadline"


class Signal(StrEnum):
    """How far the kill chain has gone."""

    NONE = "none"
    TERM = "term"
    KILL = "kill"


class Slot(StrEnum):
    """The verdict on a step's slot."""

    FREE = "free"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Where a step is. The second group belongs to one claim and is reset by a requeue."""

    state: StepState
    epoch: int = 0
    attempt: int = 0
    losses: int = 0
    max_attempts: int = 3
    max_losses: int = 5
    cancel_requested: bool = False
    reason: Reason | None = None  # why it ended; terminal states only
    last_reason: Reason | None = None  # what ended the latest try

    spawned: bool = False
    ready: bool = False
    went: bool = False  # GO was sent, so `attempt` was charged
    vram_wait: bool = False  # its memory was taken before GO, so it is to wait for it in the queue
    intent: Reason | None = None
    evidence: Reason | None = None
    signal: Signal = Signal.NONE
    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """`reason` is the classification, carried by `TREE_GONE` and `KILL_DEADLINE` alone."""

    kind: Kind
    reason: Reason | None = None


Guard = Callable[[Step], bool]
Change = Callable[[Step, Event], Step]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """`target` None: `verdict` decides. Among rows of one (source, kind), the first that fits."""

    source: StepState
    kind: Kind
    target: StepState | None
    changes: tuple[Change, ...] = ()
    effects: tuple[Effect, ...] = ()
    guard: Guard | None = None


class IllegalEvent(Exception):
    """The table has no row for this event in this state: a bug in whoever sent it."""


# Changes ------------------------------------------------------------------------------------------


def new_epoch(step: Step, event: Event) -> Step:
    return replace(step, epoch=step.epoch + 1)


def charge_attempt(step: Step, event: Event) -> Step:
    return replace(step, attempt=step.attempt + 1, went=True)


def charge_loss(step: Step, event: Event) -> Step:
    return replace(step, losses=step.losses + 1)


def mark_spawned(step: Step, event: Event) -> Step:
    return replace(step, spawned=True)


def mark_ready(step: Step, event: Event) -> Step:
    return replace(step, ready=True)


def wait_for_vram(step: Step, event: Event) -> Step:
    return replace(step, vram_wait=True)


def remember_cancel(step: Step, event: Event) -> Step:
    return replace(step, cancel_requested=True)


def take_evidence(step: Step, event: Event) -> Step:
    """Note the classification; a runner that claims what it cannot know has crashed.

    A frame that says `cancelled` must not cancel what nobody cancelled, `drained` would go round
    for ever uncharged, and nothing is completed before GO. Not `IllegalEvent`: what a runner says
    must never stop its own reclaim.
    """
    if event.reason is None:
        raise IllegalEvent(f"{event.kind} must carry the classification")
    premature = event.reason is Reason.COMPLETED and not step.went
    if event.reason in _OURS_TO_SAY or premature:
        return replace(step, evidence=Reason.RUNNER_CRASHED)
    return replace(step, evidence=event.reason)


def slot_free(step: Step, event: Event) -> Step:
    return replace(step, slot=Slot.FREE)


def slot_quarantined(step: Step, event: Event) -> Step:
    return replace(step, slot=Slot.QUARANTINED)


def intend(reason: Reason) -> Change:
    """The first cause wins: an intent that is there stays."""

    def change(step: Step, event: Event) -> Step:
        return step if step.intent else replace(step, intent=reason)

    change.__name__ = f"intend_{reason.value}"
    return change


def overrule(reason: Reason) -> Change:
    """What happened to the lease or the store outweighs what the runner did."""

    def change(step: Step, event: Event) -> Step:
        return replace(step, intent=reason)

    change.__name__ = f"overrule_{reason.value}"
    return change


# Guards -------------------------------------------------------------------------------------------


def is_ready(step: Step) -> bool:
    return step.ready


def not_ready(step: Step) -> bool:
    return not step.ready


def starting(step: Step) -> bool:
    return step.spawned and not step.ready


def not_spawned(step: Step) -> bool:
    return not step.spawned


def untouched(step: Step) -> bool:
    return step.signal is Signal.NONE


def terminated(step: Step) -> bool:
    return step.signal is Signal.TERM


def killed(step: Step) -> bool:
    return step.signal is Signal.KILL


def slot_open(step: Step) -> bool:
    return step.slot is None


def beyond_retry(step: Step) -> bool:
    return outcome(step) is not Reason.COMPLETED and outcome(step) not in TRANSIENT


# The table ----------------------------------------------------------------------------------------

E = Effect
_END_BY_FORCE = (E.RECORD, E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE)
_END_BY_ITSELF = (E.RECORD, E.ARM_EXIT_GRACE)
_CANCEL = intend(Reason.CANCELLED)
_LOST = intend(Reason.LEASE_LOST)


def _row(
    source: StepState,
    kind: Kind,
    target: StepState | None,
    *changes: Change,
    effects: tuple[Effect, ...] = (),
    guard: Guard | None = None,
) -> Row:
    return Row(
        source=source, kind=kind, target=target, changes=changes, effects=effects, guard=guard
    )


TABLE: tuple[Row, ...] = (
    # A later step of a chain.
    _row(S.PENDING, Kind.PREDECESSOR_SUCCEEDED, S.QUEUED, effects=(E.COMMIT,)),
    _row(S.PENDING, Kind.PREDECESSOR_ENDED, None, _CANCEL, effects=(E.COMMIT,)),
    _row(S.PENDING, Kind.CANCEL, None, remember_cancel, _CANCEL, effects=(E.COMMIT,)),
    # Waiting for a slot. The claim is made with a slot in hand, so a busy worker hoards nothing.
    _row(
        S.QUEUED,
        Kind.CLAIMED,
        S.LEASED,
        new_epoch,
        effects=(E.ARM_READY, E.CHECK_HEADROOM),
    ),
    _row(S.QUEUED, Kind.CANCEL, None, remember_cancel, _CANCEL, effects=(E.COMMIT,)),
    _row(S.QUEUED, Kind.QUEUE_TIMEOUT, None, intend(Reason.TIMEOUT), effects=(E.COMMIT,)),
    # Owned, before GO.
    _row(S.LEASED, Kind.HEADROOM, S.LEASED, mark_spawned, effects=(E.SPAWN,), guard=not_spawned),
    _row(
        S.LEASED,
        Kind.VRAM_BUSY,
        S.QUEUED,
        effects=(E.FREE_SLOT, E.COMMIT),
        guard=not_spawned,
    ),
    _row(
        S.LEASED,
        Kind.VRAM_WAIT_OVER,
        None,
        intend(Reason.INSUFFICIENT_VRAM),
        effects=(E.FREE_SLOT, E.COMMIT),
        guard=not_spawned,
    ),
    _row(
        S.LEASED,
        Kind.UNREADABLE,
        None,
        intend(Reason.INTERNAL),
        effects=(E.FREE_SLOT, E.COMMIT),
        guard=not_spawned,
    ),
    # The same answers to the second look, just before GO. Now there is a runner to be ended first.
    _row(
        S.LEASED, Kind.VRAM_BUSY, S.STOPPING, wait_for_vram, effects=_END_BY_FORCE, guard=is_ready
    ),
    _row(
        S.LEASED,
        Kind.VRAM_WAIT_OVER,
        S.STOPPING,
        intend(Reason.INSUFFICIENT_VRAM),
        effects=_END_BY_FORCE,
        guard=is_ready,
    ),
    _row(
        S.LEASED,
        Kind.READY,
        S.LEASED,
        mark_ready,
        effects=(E.COMMIT_RUNNING, E.ARM_START),
        guard=starting,
    ),
    _row(
        S.LEASED,
        Kind.RUNNING_COMMITTED,
        S.RUNNING,
        charge_attempt,
        effects=(E.GO, E.ARM_TIMEOUT),
        guard=is_ready,
    ),
    _row(S.LEASED, Kind.EXIT, S.STOPPING, charge_loss, effects=_END_BY_ITSELF),
    _row(S.LEASED, Kind.FAILURE, S.STOPPING, charge_loss, effects=_END_BY_ITSELF),
    _row(
        S.LEASED,
        Kind.READY_TIMEOUT,
        S.STOPPING,
        charge_loss,
        intend(Reason.RUNNER_CRASHED),
        effects=_END_BY_FORCE,
        guard=not_ready,
    ),
    # The runner has done its part. A loss all the same, or a database that takes renewals and never
    # this commit would pass the step round for ever. Where it takes neither the fence comes first.
    _row(
        S.LEASED,
        Kind.START_TIMEOUT,
        S.STOPPING,
        charge_loss,
        intend(Reason.INFRA_UNAVAILABLE),
        effects=_END_BY_FORCE,
        guard=is_ready,
    ),
    _row(
        S.LEASED,
        Kind.PROTOCOL_ERROR,
        S.STOPPING,
        charge_loss,
        intend(Reason.RUNNER_CRASHED),
        effects=_END_BY_FORCE,
    ),
    _row(S.LEASED, Kind.LEASE_GONE, S.STOPPING, charge_loss, _LOST, effects=_END_BY_FORCE),
    _row(S.LEASED, Kind.CANCEL, S.STOPPING, remember_cancel, _CANCEL, effects=_END_BY_FORCE),
    _row(S.LEASED, Kind.DRAIN, S.STOPPING, intend(Reason.DRAINED), effects=_END_BY_FORCE),
    # Running.
    _row(S.RUNNING, Kind.RESULT, S.STOPPING, effects=_END_BY_ITSELF),
    _row(S.RUNNING, Kind.FAILURE, S.STOPPING, effects=_END_BY_ITSELF),
    _row(S.RUNNING, Kind.EXIT, S.STOPPING, effects=_END_BY_ITSELF),
    _row(S.RUNNING, Kind.TIMEOUT, S.STOPPING, intend(Reason.TIMEOUT), effects=_END_BY_FORCE),
    _row(
        S.RUNNING,
        Kind.STORE_AWAY,
        S.STOPPING,
        intend(Reason.INFRA_UNAVAILABLE),
        effects=_END_BY_FORCE,
    ),
    _row(S.RUNNING, Kind.CANCEL, S.STOPPING, remember_cancel, _CANCEL, effects=_END_BY_FORCE),
    _row(S.RUNNING, Kind.DRAIN, S.STOPPING, intend(Reason.DRAINED), effects=_END_BY_FORCE),
    _row(S.RUNNING, Kind.LEASE_GONE, S.STOPPING, _LOST, effects=_END_BY_FORCE),
    _row(
        S.RUNNING,
        Kind.PROTOCOL_ERROR,
        S.STOPPING,
        intend(Reason.RUNNER_CRASHED),
        effects=_END_BY_FORCE,
    ),
    # Its processes end, or are ended.
    _row(
        S.STOPPING,
        Kind.EXIT_GRACE_OVER,
        S.STOPPING,
        effects=(E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE),
        guard=untouched,
    ),
    _row(
        S.STOPPING,
        Kind.TERM_GRACE_OVER,
        S.STOPPING,
        effects=(E.KILL, E.ARM_KILL),
        guard=terminated,
    ),
    _row(
        S.STOPPING,
        Kind.KILL_DEADLINE,
        S.RECLAIMING,
        take_evidence,
        slot_quarantined,
        effects=(E.QUARANTINE_SLOT, E.RECORD, E.VERIFY, E.ARM_RECLAIM),
        guard=killed,
    ),
    _row(
        S.STOPPING,
        Kind.TREE_GONE,
        S.RECLAIMING,
        take_evidence,
        effects=(E.RECORD, E.VERIFY, E.ARM_RECLAIM),
    ),
    _row(S.STOPPING, Kind.CANCEL, S.STOPPING, remember_cancel),
    _row(  # at the fence there is no time left to wait for it to end by itself
        S.STOPPING,
        Kind.LEASE_GONE,
        S.STOPPING,
        effects=(E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE),
        guard=untouched,
    ),
    _row(S.STOPPING, Kind.LEASE_GONE, S.STOPPING),
    _row(S.STOPPING, Kind.DRAIN, S.STOPPING),
    # News of what was under way when it began to stop. It changes nothing any more.
    *(
        _row(state, kind, state)
        for state in (S.STOPPING, S.RECLAIMING, S.PUBLISHING)
        for kind in (
            Kind.HEADROOM,
            Kind.VRAM_BUSY,
            Kind.VRAM_WAIT_OVER,
            Kind.UNREADABLE,
            Kind.READY,
            Kind.RUNNING_COMMITTED,
            Kind.RESULT,
            Kind.FAILURE,
            Kind.EXIT,
            Kind.PROTOCOL_ERROR,
        )
    ),
    # The tree is gone, or given up on. Nobody learns how the step ended before the slot's verdict.
    _row(
        S.RECLAIMING,
        Kind.VERIFIED,
        S.PUBLISHING,
        slot_free,
        effects=(E.FREE_SLOT, E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
        guard=slot_open,
    ),
    _row(  # it died after the kill deadline: the slot is in quarantine, and returns from there
        S.RECLAIMING,
        Kind.VERIFIED,
        S.PUBLISHING,
        effects=(E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
    ),
    # A tree that was given up on may die after all.
    _row(S.RECLAIMING, Kind.TREE_GONE, S.RECLAIMING),
    _row(S.PUBLISHING, Kind.TREE_GONE, S.PUBLISHING),
    _row(
        S.RECLAIMING,
        Kind.RECLAIM_DEADLINE,
        S.PUBLISHING,
        slot_quarantined,
        effects=(E.QUARANTINE_SLOT, E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
        guard=slot_open,
    ),
    _row(  # already quarantined at the kill deadline
        S.RECLAIMING,
        Kind.RECLAIM_DEADLINE,
        S.PUBLISHING,
        effects=(E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
    ),
    _row(S.RECLAIMING, Kind.CANCEL, S.RECLAIMING, remember_cancel),
    _row(S.RECLAIMING, Kind.DRAIN, S.RECLAIMING),
    _row(S.RECLAIMING, Kind.LEASE_GONE, S.RECLAIMING),
    # Finished images are on their way to the store; the slot already serves somebody else.
    _row(S.PUBLISHING, Kind.PUBLISHED, None, effects=(E.COMMIT,)),
    _row(  # another try would run out of memory, or of time, just the same
        S.PUBLISHING, Kind.PUBLISH_DEADLINE, None, effects=(E.COMMIT,), guard=beyond_retry
    ),
    _row(
        S.PUBLISHING,
        Kind.PUBLISH_DEADLINE,
        None,
        charge_loss,
        overrule(Reason.INFRA_UNAVAILABLE),
        effects=(E.COMMIT,),
    ),
    _row(
        S.PUBLISHING,
        Kind.LEASE_GONE,
        None,
        charge_loss,
        overrule(Reason.LEASE_LOST),
        effects=(E.COMMIT,),
    ),
    _row(S.PUBLISHING, Kind.CANCEL, S.PUBLISHING, remember_cancel),
    _row(S.PUBLISHING, Kind.DRAIN, S.PUBLISHING),
    # The owner is gone. Some other worker's sweeper applies this one, to the stored row.
    *(
        _row(
            state,
            Kind.LEASE_EXPIRED,
            None,
            new_epoch,
            charge_loss,
            overrule(Reason.LEASE_LOST),
            effects=(E.COMMIT,),
        )
        for state in (S.LEASED, S.RUNNING, S.STOPPING, S.RECLAIMING, S.PUBLISHING)
    ),
)


def advance(
    step: Step, event: Event, table: tuple[Row, ...] = TABLE
) -> tuple[Step, tuple[Effect, ...]]:
    """Return the step after `event` and what must now be done.

    Raises `IllegalEvent`, having changed nothing, where the table has no row. `table` is a
    parameter so that a test can take a row away and see somebody notice.
    """
    if step.state in TERMINAL:
        return step, ()
    for row in table:
        if row.source is step.state and row.kind is event.kind:
            if row.guard is None or row.guard(step):
                return _apply(row, step, event)
    raise IllegalEvent(f"a {step.state} step cannot take {event.kind!r}")


def _apply(row: Row, step: Step, event: Event) -> tuple[Step, tuple[Effect, ...]]:
    for change in row.changes:
        step = change(step, event)
    if row.target is None:
        return verdict(step), row.effects
    if E.KILL in row.effects:
        step = replace(step, signal=Signal.KILL)
    elif E.TERMINATE in row.effects:
        step = replace(step, signal=Signal.TERM)
    if row.target is S.QUEUED:
        return _requeued(step), row.effects
    return replace(step, state=row.target), row.effects


# The verdict --------------------------------------------------------------------------------------


def outcome(step: Step) -> Reason:
    """What ended this try: our own intent first, then the evidence."""
    reason = step.intent or step.evidence
    if reason is None:
        raise IllegalEvent(f"a {step.state} step ended without intent or evidence")
    return reason


def verdict(step: Step) -> Step:
    """Where a try that ended leads: a terminal state, or back to the queue.

    Good work is kept even when a cancel came in the meantime. A cancel beats a retry. A drain is
    our own doing and costs the step nothing, nor does a wait for memory. What is transient is tried
    again while both bounds allow it; everything else would only fail the same way again.
    """
    if step.vram_wait and step.intent is None:
        # Nobody is to blame, and the runner that we ended has no say in it.
        if step.cancel_requested:
            return _ended(step, S.CANCELLED, Reason.CANCELLED)
        return _requeued(step)
    reason = outcome(step)
    if step.state in OWNED:  # what nobody owned was not tried
        step = replace(step, last_reason=reason)
    if reason is Reason.COMPLETED:
        return _ended(step, S.SUCCEEDED, reason)
    if reason is Reason.CANCELLED or (step.cancel_requested and reason in TRANSIENT):
        return _ended(step, S.CANCELLED, Reason.CANCELLED)
    if reason is Reason.DRAINED:
        refund = 1 if step.went else 0
        return _requeued(replace(step, attempt=step.attempt - refund))
    if reason not in TRANSIENT:
        return _ended(step, S.FAILED, reason)
    if step.attempt >= step.max_attempts or step.losses >= step.max_losses:
        return _ended(step, S.FAILED, Reason.ATTEMPTS_EXHAUSTED)
    return _requeued(step)


def _ended(step: Step, state: StepState, reason: Reason) -> Step:
    return replace(step, state=state, reason=reason, spawned=False)


def _requeued(step: Step) -> Step:
    return Step(
        state=S.QUEUED,
        epoch=step.epoch,
        attempt=step.attempt,
        losses=step.losses,
        max_attempts=step.max_attempts,
        max_losses=step.max_losses,
        cancel_requested=step.cancel_requested,
        last_reason=step.last_reason,
    )
