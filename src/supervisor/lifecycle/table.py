"""The table of a step's life: every row, and the changes and guards that rows name."""

from __future__ import annotations

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
    SlotVerdict,
    Step,
    outcome,
)

# Decisions, not observations: they come from an intent or from a bound, never from evidence.
SUPERVISOR_ONLY = frozenset({Reason.CANCELLED, Reason.DRAINED, Reason.ATTEMPTS_EXHAUSTED})


# Changes ------------------------------------------------------------------------------------------


def new_epoch(step: Step, event: Event) -> Step:
    return replace(step, epoch=step.epoch + 1)


def charge_attempt(step: Step, event: Event) -> Step:
    return replace(step, attempt=step.attempt + 1, go_sent=True)


def charge_loss(step: Step, event: Event) -> Step:
    return replace(step, losses=step.losses + 1)


def mark_spawned(step: Step, event: Event) -> Step:
    return replace(step, spawned=True)


def mark_ready(step: Step, event: Event) -> Step:
    return replace(step, ready=True)


def wait_for_vram(step: Step, event: Event) -> Step:
    return replace(step, vram_wait=True)


def mark_cancel_requested(step: Step, event: Event) -> Step:
    return replace(step, cancel_requested=True)


def set_evidence(step: Step, event: Event) -> Step:
    """Note the classification; a runner that claims what it cannot know has crashed.

    A frame that says `cancelled` must not cancel what nobody cancelled, `drained` would go round
    for ever uncharged, and nothing is completed before GO. Not `IllegalEvent`: what a runner says
    must never stop its own reclaim.
    """
    if event.reason is None:
        raise IllegalEvent(f"{event.kind} must carry the classification")
    premature = event.reason is Reason.COMPLETED and not step.go_sent
    if event.reason in SUPERVISOR_ONLY or premature:
        return replace(step, evidence=Reason.RUNNER_CRASHED)
    return replace(step, evidence=event.reason)


def mark_slot_free(step: Step, event: Event) -> Step:
    return replace(step, slot=SlotVerdict.FREE)


def mark_slot_quarantined(step: Step, event: Event) -> Step:
    return replace(step, slot=SlotVerdict.QUARANTINED)


def set_intent(reason: Reason) -> Change:
    """The first cause wins: an intent that is there stays."""

    def change(step: Step, event: Event) -> Step:
        return step if step.intent else replace(step, intent=reason)

    change.__name__ = f"set_intent_{reason.value}"
    return change


def override_intent(reason: Reason) -> Change:
    """What happened to the lease or the store outweighs what the runner did."""

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

_END_BY_FORCE = (E.RECORD, E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE)
_END_BY_ITSELF = (E.RECORD, E.ARM_EXIT_GRACE)
_CANCEL = set_intent(Reason.CANCELLED)
_LOST = set_intent(Reason.LEASE_LOST)


def _row(
    source: StepState,
    kind: EventKind,
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
    _row(S.PENDING, K.PREDECESSOR_SUCCEEDED, S.QUEUED, effects=(E.COMMIT,)),
    _row(S.PENDING, K.PREDECESSOR_ENDED, None, _CANCEL, effects=(E.COMMIT,)),
    _row(S.PENDING, K.CANCEL, None, mark_cancel_requested, _CANCEL, effects=(E.COMMIT,)),
    # Waiting for a slot. The claim is made with a slot in hand, so a busy worker hoards nothing.
    _row(
        S.QUEUED,
        K.CLAIMED,
        S.LEASED,
        new_epoch,
        effects=(E.ARM_READY, E.CHECK_HEADROOM),
    ),
    _row(S.QUEUED, K.CANCEL, None, mark_cancel_requested, _CANCEL, effects=(E.COMMIT,)),
    _row(S.QUEUED, K.QUEUE_TIMEOUT, None, set_intent(Reason.TIMEOUT), effects=(E.COMMIT,)),
    # Owned, before GO.
    _row(S.LEASED, K.HEADROOM, S.LEASED, mark_spawned, effects=(E.SPAWN,), guard=not_spawned),
    _row(
        S.LEASED,
        K.VRAM_BUSY,
        S.QUEUED,
        effects=(E.FREE_SLOT, E.COMMIT),
        guard=not_spawned,
    ),
    _row(
        S.LEASED,
        K.VRAM_WAIT_OVER,
        None,
        set_intent(Reason.INSUFFICIENT_VRAM),
        effects=(E.FREE_SLOT, E.COMMIT),
        guard=not_spawned,
    ),
    _row(
        S.LEASED,
        K.UNREADABLE,
        None,
        set_intent(Reason.INTERNAL),
        effects=(E.FREE_SLOT, E.COMMIT),
        guard=not_spawned,
    ),
    # The same answers to the second look, just before GO. Now there is a runner to be ended first.
    _row(
        S.LEASED,
        K.VRAM_BUSY,
        S.STOPPING,
        wait_for_vram,
        effects=_END_BY_FORCE,
        guard=is_ready,
    ),
    _row(
        S.LEASED,
        K.VRAM_WAIT_OVER,
        S.STOPPING,
        set_intent(Reason.INSUFFICIENT_VRAM),
        effects=_END_BY_FORCE,
        guard=is_ready,
    ),
    _row(
        S.LEASED,
        K.READY,
        S.LEASED,
        mark_ready,
        effects=(E.COMMIT_RUNNING, E.ARM_START),
        guard=starting,
    ),
    _row(
        S.LEASED,
        K.RUNNING_COMMITTED,
        S.RUNNING,
        charge_attempt,
        effects=(E.GO, E.ARM_TIMEOUT),
        guard=is_ready,
    ),
    _row(S.LEASED, K.EXIT, S.STOPPING, charge_loss, effects=_END_BY_ITSELF),
    _row(S.LEASED, K.FAILURE, S.STOPPING, charge_loss, effects=_END_BY_ITSELF),
    _row(
        S.LEASED,
        K.READY_TIMEOUT,
        S.STOPPING,
        charge_loss,
        set_intent(Reason.RUNNER_CRASHED),
        effects=_END_BY_FORCE,
        guard=not_ready,
    ),
    # The runner has done its part. A loss all the same, or a database that takes renewals and never
    # this commit would pass the step round for ever. Where it takes neither the fence comes first.
    _row(
        S.LEASED,
        K.START_TIMEOUT,
        S.STOPPING,
        charge_loss,
        set_intent(Reason.INFRA_UNAVAILABLE),
        effects=_END_BY_FORCE,
        guard=is_ready,
    ),
    _row(
        S.LEASED,
        K.PROTOCOL_ERROR,
        S.STOPPING,
        charge_loss,
        set_intent(Reason.RUNNER_CRASHED),
        effects=_END_BY_FORCE,
    ),
    _row(S.LEASED, K.LEASE_GONE, S.STOPPING, charge_loss, _LOST, effects=_END_BY_FORCE),
    _row(
        S.LEASED,
        K.CANCEL,
        S.STOPPING,
        mark_cancel_requested,
        _CANCEL,
        effects=_END_BY_FORCE,
    ),
    _row(S.LEASED, K.DRAIN, S.STOPPING, set_intent(Reason.DRAINED), effects=_END_BY_FORCE),
    # Running.
    _row(S.RUNNING, K.RESULT, S.STOPPING, effects=_END_BY_ITSELF),
    _row(S.RUNNING, K.FAILURE, S.STOPPING, effects=_END_BY_ITSELF),
    _row(S.RUNNING, K.EXIT, S.STOPPING, effects=_END_BY_ITSELF),
    _row(S.RUNNING, K.TIMEOUT, S.STOPPING, set_intent(Reason.TIMEOUT), effects=_END_BY_FORCE),
    _row(
        S.RUNNING,
        K.STORE_AWAY,
        S.STOPPING,
        set_intent(Reason.INFRA_UNAVAILABLE),
        effects=_END_BY_FORCE,
    ),
    _row(
        S.RUNNING,
        K.CANCEL,
        S.STOPPING,
        mark_cancel_requested,
        _CANCEL,
        effects=_END_BY_FORCE,
    ),
    _row(S.RUNNING, K.DRAIN, S.STOPPING, set_intent(Reason.DRAINED), effects=_END_BY_FORCE),
    _row(S.RUNNING, K.LEASE_GONE, S.STOPPING, _LOST, effects=_END_BY_FORCE),
    _row(
        S.RUNNING,
        K.PROTOCOL_ERROR,
        S.STOPPING,
        set_intent(Reason.RUNNER_CRASHED),
        effects=_END_BY_FORCE,
    ),
    # Its processes end, or are ended.
    _row(
        S.STOPPING,
        K.EXIT_GRACE_OVER,
        S.STOPPING,
        effects=(E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE),
        guard=not_signalled,
    ),
    _row(
        S.STOPPING,
        K.TERM_GRACE_OVER,
        S.STOPPING,
        effects=(E.KILL, E.ARM_KILL),
        guard=term_sent,
    ),
    _row(
        S.STOPPING,
        K.KILL_DEADLINE,
        S.RECLAIMING,
        set_evidence,
        mark_slot_quarantined,
        effects=(E.QUARANTINE_SLOT, E.RECORD, E.VERIFY, E.ARM_RECLAIM),
        guard=kill_sent,
    ),
    _row(
        S.STOPPING,
        K.TREE_GONE,
        S.RECLAIMING,
        set_evidence,
        effects=(E.RECORD, E.VERIFY, E.ARM_RECLAIM),
    ),
    _row(S.STOPPING, K.CANCEL, S.STOPPING, mark_cancel_requested),
    _row(  # at the fence there is no time left to wait for it to end by itself
        S.STOPPING,
        K.LEASE_GONE,
        S.STOPPING,
        effects=(E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE),
        guard=not_signalled,
    ),
    _row(S.STOPPING, K.LEASE_GONE, S.STOPPING),
    _row(S.STOPPING, K.DRAIN, S.STOPPING),
    # News of what was under way when it began to stop. It changes nothing any more.
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
    # The tree is gone, or given up on. Nobody learns how the step ended before the slot's verdict.
    _row(
        S.RECLAIMING,
        K.VERIFIED,
        S.PUBLISHING,
        mark_slot_free,
        effects=(E.FREE_SLOT, E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
        guard=slot_undecided,
    ),
    _row(  # it died after the kill deadline: the slot is in quarantine, and returns from there
        S.RECLAIMING,
        K.VERIFIED,
        S.PUBLISHING,
        effects=(E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
    ),
    # A tree that was given up on may die after all.
    _row(S.RECLAIMING, K.TREE_GONE, S.RECLAIMING),
    _row(S.PUBLISHING, K.TREE_GONE, S.PUBLISHING),
    _row(
        S.RECLAIMING,
        K.RECLAIM_DEADLINE,
        S.PUBLISHING,
        mark_slot_quarantined,
        effects=(E.QUARANTINE_SLOT, E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
        guard=slot_undecided,
    ),
    _row(  # already quarantined at the kill deadline
        S.RECLAIMING,
        K.RECLAIM_DEADLINE,
        S.PUBLISHING,
        effects=(E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
    ),
    _row(S.RECLAIMING, K.CANCEL, S.RECLAIMING, mark_cancel_requested),
    _row(S.RECLAIMING, K.DRAIN, S.RECLAIMING),
    _row(S.RECLAIMING, K.LEASE_GONE, S.RECLAIMING),
    # Finished images are on their way to the store; the slot already serves somebody else.
    _row(S.PUBLISHING, K.PUBLISHED, None, effects=(E.COMMIT,)),
    _row(  # another try would run out of memory, or of time, just the same
        S.PUBLISHING, K.PUBLISH_DEADLINE, None, effects=(E.COMMIT,), guard=not_retryable
    ),
    _row(
        S.PUBLISHING,
        K.PUBLISH_DEADLINE,
        None,
        charge_loss,
        override_intent(Reason.INFRA_UNAVAILABLE),
        effects=(E.COMMIT,),
    ),
    _row(
        S.PUBLISHING,
        K.LEASE_GONE,
        None,
        charge_loss,
        override_intent(Reason.LEASE_LOST),
        effects=(E.COMMIT,),
    ),
    _row(S.PUBLISHING, K.CANCEL, S.PUBLISHING, mark_cancel_requested),
    _row(S.PUBLISHING, K.DRAIN, S.PUBLISHING),
    # The owner is gone. Some other worker's rescuer applies this one, to the stored row.
    *(
        _row(
            state,
            K.LEASE_EXPIRED,
            None,
            new_epoch,
            charge_loss,
            override_intent(Reason.LEASE_LOST),
            effects=(E.COMMIT,),
        )
        for state in (S.LEASED, S.RUNNING, S.STOPPING, S.RECLAIMING, S.PUBLISHING)
    ),
)
