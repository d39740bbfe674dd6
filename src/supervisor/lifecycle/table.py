"""The table of the state machine: every row, and the changes and guards that rows name."""

from dataclasses import replace

from shared.states import TRANSIENT, Reason, StepState
from supervisor.lifecycle.step import (
    Change,
    E,
    Effect,
    Event,
    EventKind,
    Guard,
    IllegalEvent,
    K,
    Row,
    S,
    Signal,
    Step,
    outcome,
)

# Decisions of the supervisor: they come from an intent or from a bound, never from evidence.
SUPERVISOR_ONLY = frozenset({Reason.CANCELLED, Reason.DRAINED, Reason.ATTEMPTS_EXHAUSTED})


# Changes ------------------------------------------------------------------------------------------


def new_epoch(step: Step, event: Event) -> Step:
    return replace(step, epoch=step.epoch + 1)


def charge_attempt(step: Step, event: Event) -> Step:
    return replace(step, attempt=step.attempt + 1, go_sent=True)


def charge_loss(step: Step, event: Event) -> Step:
    return replace(step, losses=step.losses + 1)


def mark_ready(step: Step, event: Event) -> Step:
    return replace(step, ready=True)


def wait_for_vram(step: Step, event: Event) -> Step:
    return replace(step, vram_wait=True)


def end_vram_wait(step: Step, event: Event) -> Step:
    return replace(step, vram_wait=False)


def mark_cancel_requested(step: Step, event: Event) -> Step:
    return replace(step, cancel_requested=True)


def set_evidence(step: Step, event: Event) -> Step:
    """Keep the classification. A runner that claims what it cannot know has crashed.

    A frame that says `cancelled` must not cancel a step without a request, `drained` would return
    to the queue uncharged for ever, and nothing is completed before GO. `IllegalEvent` is no
    answer: what a runner says must never stop its own reclaim.
    """
    if event.reason is None:
        raise IllegalEvent(f"{event.kind} must carry the classification")
    premature = event.reason is Reason.COMPLETED and not step.go_sent
    if event.reason in SUPERVISOR_ONLY or premature:
        return replace(step, evidence=Reason.RUNNER_CRASHED)
    return replace(step, evidence=event.reason)


def set_intent(reason: Reason) -> Change:
    """Set why we end the step, unless an earlier cause is set: the first one wins."""

    def change(step: Step, event: Event) -> Step:
        return step if step.intent else replace(step, intent=reason)

    change.__name__ = f"set_intent_{reason.value}"
    return change


def override_intent(reason: Reason) -> Change:
    """Replace the cause: a lost lease or a lost store outweighs what the runner did."""

    def change(step: Step, event: Event) -> Step:
        return replace(step, intent=reason)

    change.__name__ = f"override_intent_{reason.value}"
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


def not_signalled(step: Step) -> bool:
    return step.signal is Signal.NONE


def term_sent(step: Step) -> bool:
    return step.signal is Signal.TERM


def kill_sent(step: Step) -> bool:
    return step.signal is Signal.KILL


def slot_undecided(step: Step) -> bool:
    return step.slot is None


def not_retryable(step: Step) -> bool:
    return outcome(step) is not Reason.COMPLETED and outcome(step) not in TRANSIENT


# The table ----------------------------------------------------------------------------------------

_COMMIT = (E.COMMIT,)
_GIVE_BACK = (E.FREE_SLOT, E.COMMIT)
_BY_ITSELF = (E.RECORD, E.ARM_EXIT_GRACE)
_TERMINATE = (E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE)
_BY_FORCE = (E.RECORD, *_TERMINATE)
_GO = (E.GO, E.ARM_TIMEOUT)
_RECLAIM = (E.RECORD, E.VERIFY, E.ARM_RECLAIM)
_GIVE_UP = (E.QUARANTINE_SLOT, *_RECLAIM)
_PUBLISH = (E.RECORD, E.PUBLISH, E.ARM_PUBLISH)
_FREE = (E.FREE_SLOT, *_PUBLISH)
_QUARANTINE = (E.QUARANTINE_SLOT, *_PUBLISH)

_CANCELLED = set_intent(Reason.CANCELLED)
_CRASHED = set_intent(Reason.RUNNER_CRASHED)
_DRAINED = set_intent(Reason.DRAINED)
_NO_INFRA = set_intent(Reason.INFRA_UNAVAILABLE)
_LEASE_LOST = set_intent(Reason.LEASE_LOST)
_NO_VRAM = set_intent(Reason.INSUFFICIENT_VRAM)
_TIMED_OUT = set_intent(Reason.TIMEOUT)
_UNREADABLE = set_intent(Reason.INTERNAL)
_LEASE_LOST_AFTER_ALL = override_intent(Reason.LEASE_LOST)
_NO_INFRA_AFTER_ALL = override_intent(Reason.INFRA_UNAVAILABLE)


def _row(
    source: StepState,
    kind: EventKind,
    target: StepState | None,
    effects: tuple[Effect, ...] = (),
    *changes: Change,
    guard: Guard | None = None,
) -> Row:
    return Row(
        source=source, kind=kind, target=target, changes=changes, effects=effects, guard=guard
    )


TABLE: tuple[Row, ...] = (
    # Waiting for a slot. A worker claims for a slot that is free, so a busy one hoards nothing.
    _row(S.QUEUED, K.CLAIMED, S.LEASED, (E.ARM_READY, E.CHECK_HEADROOM), new_epoch, end_vram_wait),
    _row(S.QUEUED, K.CANCEL, None, _COMMIT, mark_cancel_requested, _CANCELLED),
    _row(S.QUEUED, K.QUEUE_TIMEOUT, None, _COMMIT, _TIMED_OUT),
    # Owned, before GO.
    _row(S.LEASED, K.HEADROOM, S.LEASED, (E.SPAWN,), guard=not_spawned),
    _row(S.LEASED, K.VRAM_BUSY, None, _GIVE_BACK, wait_for_vram, guard=not_spawned),
    _row(S.LEASED, K.VRAM_WAIT_OVER, None, _GIVE_BACK, _NO_VRAM, guard=not_spawned),
    _row(S.LEASED, K.UNREADABLE, None, _GIVE_BACK, _UNREADABLE, guard=not_spawned),
    # The second check of memory, just before GO. Now there is a runner, which must end first.
    _row(S.LEASED, K.VRAM_BUSY, S.STOPPING, _BY_FORCE, wait_for_vram, guard=is_ready),
    _row(S.LEASED, K.VRAM_WAIT_OVER, S.STOPPING, _BY_FORCE, _NO_VRAM, guard=is_ready),
    _row(S.LEASED, K.READY, S.LEASED, (E.COMMIT_RUNNING, E.ARM_START), mark_ready, guard=starting),
    _row(S.LEASED, K.RUNNING_COMMITTED, S.RUNNING, _GO, charge_attempt, guard=is_ready),
    _row(S.LEASED, K.EXIT, S.STOPPING, _BY_ITSELF, charge_loss),
    _row(S.LEASED, K.FAILURE, S.STOPPING, _BY_ITSELF, charge_loss),
    _row(S.LEASED, K.READY_TIMEOUT, S.STOPPING, _BY_FORCE, charge_loss, _CRASHED, guard=not_ready),
    # The runner did its part, and yet it is a loss: with a database that takes renewals and never
    # this commit, the step would return to the queue for ever. If the database takes neither, the
    # fence comes first.
    _row(S.LEASED, K.START_TIMEOUT, S.STOPPING, _BY_FORCE, charge_loss, _NO_INFRA, guard=is_ready),
    _row(S.LEASED, K.PROTOCOL_ERROR, S.STOPPING, _BY_FORCE, charge_loss, _CRASHED),
    _row(S.LEASED, K.LEASE_GONE, S.STOPPING, _BY_FORCE, charge_loss, _LEASE_LOST),
    _row(S.LEASED, K.CANCEL, S.STOPPING, _BY_FORCE, mark_cancel_requested, _CANCELLED),
    _row(S.LEASED, K.DRAIN, S.STOPPING, _BY_FORCE, _DRAINED),
    # Running.
    _row(S.RUNNING, K.RESULT, S.STOPPING, _BY_ITSELF),
    _row(S.RUNNING, K.FAILURE, S.STOPPING, _BY_ITSELF),
    _row(S.RUNNING, K.EXIT, S.STOPPING, _BY_ITSELF),
    _row(S.RUNNING, K.TIMEOUT, S.STOPPING, _BY_FORCE, _TIMED_OUT),
    _row(S.RUNNING, K.STORE_AWAY, S.STOPPING, _BY_FORCE, _NO_INFRA),
    _row(S.RUNNING, K.CANCEL, S.STOPPING, _BY_FORCE, mark_cancel_requested, _CANCELLED),
    _row(S.RUNNING, K.DRAIN, S.STOPPING, _BY_FORCE, _DRAINED),
    _row(S.RUNNING, K.LEASE_GONE, S.STOPPING, _BY_FORCE, _LEASE_LOST),
    _row(S.RUNNING, K.PROTOCOL_ERROR, S.STOPPING, _BY_FORCE, _CRASHED),
    # Its processes end, or we end them.
    _row(S.STOPPING, K.EXIT_GRACE_OVER, S.STOPPING, _TERMINATE, guard=not_signalled),
    _row(S.STOPPING, K.TERM_GRACE_OVER, S.STOPPING, (E.KILL, E.ARM_KILL), guard=term_sent),
    _row(S.STOPPING, K.KILL_DEADLINE, S.RECLAIMING, _GIVE_UP, set_evidence, guard=kill_sent),
    _row(S.STOPPING, K.TREE_GONE, S.RECLAIMING, _RECLAIM, set_evidence),
    _row(S.STOPPING, K.CANCEL, S.STOPPING, (), mark_cancel_requested),
    # At the fence no time is left to wait for the runner to end by itself.
    _row(S.STOPPING, K.LEASE_GONE, S.STOPPING, _TERMINATE, guard=not_signalled),
    _row(S.STOPPING, K.LEASE_GONE, S.STOPPING),
    _row(S.STOPPING, K.DRAIN, S.STOPPING),
    # Reports of what was under way when the step began to stop. They change nothing any more.
    *(
        _row(state, kind, state)
        for state in (S.STOPPING, S.RECLAIMING, S.PUBLISHING)
        for kind in (
            K.HEADROOM,
            K.VRAM_BUSY,
            K.VRAM_WAIT_OVER,
            K.UNREADABLE,
            K.READY,
            K.RUNNING_COMMITTED,
            K.RESULT,
            K.FAILURE,
            K.EXIT,
            K.PROTOCOL_ERROR,
        )
    ),
    # The tree is gone, or given up on. The slot's verdict comes before the end of the step.
    _row(S.RECLAIMING, K.VERIFIED, S.PUBLISHING, _FREE, guard=slot_undecided),
    # It died after the kill deadline: the slot is in quarantine and returns from there.
    _row(S.RECLAIMING, K.VERIFIED, S.PUBLISHING, _PUBLISH),
    # A tree that was given up on may die later.
    _row(S.RECLAIMING, K.TREE_GONE, S.RECLAIMING),
    _row(S.PUBLISHING, K.TREE_GONE, S.PUBLISHING),
    _row(S.RECLAIMING, K.RECLAIM_DEADLINE, S.PUBLISHING, _QUARANTINE, guard=slot_undecided),
    # The slot went to quarantine at the kill deadline.
    _row(S.RECLAIMING, K.RECLAIM_DEADLINE, S.PUBLISHING, _PUBLISH),
    _row(S.RECLAIMING, K.CANCEL, S.RECLAIMING, (), mark_cancel_requested),
    _row(S.RECLAIMING, K.DRAIN, S.RECLAIMING),
    _row(S.RECLAIMING, K.LEASE_GONE, S.RECLAIMING),
    # Finished images are on their way to the store; the slot already serves another step.
    _row(S.PUBLISHING, K.PUBLISHED, None, _COMMIT),
    # Another execution would run out of memory, or of time, just the same.
    _row(S.PUBLISHING, K.PUBLISH_DEADLINE, None, _COMMIT, guard=not_retryable),
    _row(S.PUBLISHING, K.PUBLISH_DEADLINE, None, _COMMIT, charge_loss, _NO_INFRA_AFTER_ALL),
    _row(S.PUBLISHING, K.LEASE_GONE, None, _COMMIT, charge_loss, _LEASE_LOST_AFTER_ALL),
    _row(S.PUBLISHING, K.CANCEL, S.PUBLISHING, (), mark_cancel_requested),
    _row(S.PUBLISHING, K.DRAIN, S.PUBLISHING),
    # The owner is gone. The rescuer of another worker applies this row to the stored step.
    *(
        _row(state, K.LEASE_EXPIRED, None, _COMMIT, new_epoch, charge_loss, _LEASE_LOST_AFTER_ALL)
        for state in (S.LEASED, S.RUNNING, S.STOPPING, S.RECLAIMING, S.PUBLISHING)
    ),
)
