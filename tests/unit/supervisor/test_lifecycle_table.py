"""The table of DESIGN §4, written down a second time: one claim per behaviour.

Every claim is a plain function of an `advance`, so that `test_lifecycle_mutations` can hand it a
broken one and see it go red. The steps that they start from are spelled out, not produced by the
code under test, and the whole step after the move is compared: a move that changes one field too
many is as wrong as one that changes one too few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.states import OWNED, TERMINAL, Reason, StepState
from supervisor.lifecycle import machine
from supervisor.lifecycle.step import (
    Effect,
    Event,
    EventKind,
    IllegalEvent,
    Signal,
    SlotVerdict,
    Step,
)

Advance = Callable[[Step, Event], tuple[Step, tuple[Effect, ...]]]
Claim = Callable[[Advance], None]

S, E, K, R = StepState, Effect, EventKind, Reason

# The counters are all different, and no number is the default: a reset shows.
QUEUED = Step(state=S.QUEUED, epoch=4, attempt=1, losses=2, max_attempts=6, max_losses=7)
WAITING = replace(QUEUED, vram_wait=True)
CLAIMED = replace(QUEUED, state=S.LEASED, epoch=5)
SPAWNED = replace(CLAIMED, spawned=True)
READY = replace(SPAWNED, ready=True)
RUNNING = replace(READY, state=S.RUNNING, attempt=2, go_sent=True)
FINISHING = replace(RUNNING, state=S.STOPPING)  # not signalled yet
TERMINATED = replace(FINISHING, signal=Signal.TERM, intent=R.TIMEOUT)
KILLED = replace(TERMINATED, signal=Signal.KILL)
GONE = replace(FINISHING, state=S.RECLAIMING, evidence=R.COMPLETED)
UNKILLABLE = replace(
    KILLED, state=S.RECLAIMING, evidence=R.RUNNER_CRASHED, slot=SlotVerdict.QUARANTINED
)
PUBLISHING = replace(GONE, state=S.PUBLISHING, slot=SlotVerdict.FREE)
ENDED = [replace(PUBLISHING, state=state, reason=R.INTERNAL) for state in sorted(TERMINAL)]

BY_FORCE = (E.RECORD, E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE)
BY_ITSELF = (E.RECORD, E.ARM_EXIT_GRACE)

LATE_NEWS = {K.HEADROOM, K.VRAM_BUSY, K.VRAM_WAIT_OVER, K.READY, K.RUNNING_COMMITTED, K.RESULT}
LATE_NEWS |= {K.FAILURE, K.EXIT, K.PROTOCOL_ERROR, K.UNREADABLE}
OUTSIDE = {K.CANCEL, K.DRAIN, K.LEASE_GONE, K.LEASE_EXPIRED}  # come at any time to an owned step
BROKEN = {K.EXIT, K.FAILURE, K.PROTOCOL_ERROR}

# The events that each situation may take. Any other one is a bug of the caller.
LEGAL: list[tuple[Step, set[EventKind]]] = [
    (QUEUED, {K.CLAIMED, K.CANCEL, K.QUEUE_TIMEOUT}),
    (
        CLAIMED,
        {K.HEADROOM, K.VRAM_BUSY, K.VRAM_WAIT_OVER, K.UNREADABLE, K.READY_TIMEOUT}
        | BROKEN
        | OUTSIDE,
    ),
    (SPAWNED, {K.READY, K.READY_TIMEOUT} | BROKEN | OUTSIDE),
    (
        READY,
        {K.RUNNING_COMMITTED, K.VRAM_BUSY, K.VRAM_WAIT_OVER, K.START_TIMEOUT} | BROKEN | OUTSIDE,
    ),
    (RUNNING, {K.RESULT, K.TIMEOUT, K.STORE_AWAY} | BROKEN | OUTSIDE),
    (FINISHING, {K.EXIT_GRACE_OVER, K.TREE_GONE} | LATE_NEWS | OUTSIDE),
    (TERMINATED, {K.TERM_GRACE_OVER, K.TREE_GONE} | LATE_NEWS | OUTSIDE),
    (KILLED, {K.KILL_DEADLINE, K.TREE_GONE} | LATE_NEWS | OUTSIDE),
    (GONE, {K.VERIFIED, K.RECLAIM_DEADLINE, K.TREE_GONE} | LATE_NEWS | OUTSIDE),
    (UNKILLABLE, {K.VERIFIED, K.RECLAIM_DEADLINE, K.TREE_GONE} | LATE_NEWS | OUTSIDE),
    (PUBLISHING, {K.PUBLISHED, K.PUBLISH_DEADLINE, K.TREE_GONE} | LATE_NEWS | OUTSIDE),
]
SITUATIONS = [step for step, _ in LEGAL]


def event(kind: EventKind) -> Event:
    """The event with what it must carry."""
    carries = kind in (K.TREE_GONE, K.KILL_DEADLINE)
    return Event(kind, R.RUNNER_CRASHED if carries else None)


def moves(
    advance: Advance,
    step: Step,
    happened: EventKind | Event,
    state: StepState,
    effects: tuple[Effect, ...] = (),
    **changed: object,
) -> None:
    """Assert the move: this state, these effects in this order, these fields and no others."""
    taken = event(happened) if isinstance(happened, EventKind) else happened
    expected = replace(step, state=state, **changed)  # type: ignore[arg-type]
    assert advance(step, taken) == (expected, effects)


def back_in_queue(
    advance: Advance,
    step: Step,
    happened: EventKind | Event,
    effects: tuple[Effect, ...],
    **changed: object,
) -> None:
    """Assert a requeue: nothing of the claim is left but the counters and the latest reason."""
    taken = event(happened) if isinstance(happened, EventKind) else happened
    kept = Step(
        state=S.QUEUED,
        epoch=step.epoch,
        attempt=step.attempt,
        losses=step.losses,
        max_attempts=step.max_attempts,
        max_losses=step.max_losses,
        cancel_requested=step.cancel_requested,
        last_reason=step.last_reason,
    )
    expected = replace(kept, **changed)  # type: ignore[arg-type]
    assert advance(step, taken) == (expected, effects)


@pytest.fixture
def advance() -> Advance:
    return machine.advance


# Before a claim -----------------------------------------------------------------------------------


def test_a_cancel_ends_at_once_what_nobody_owns(advance: Advance) -> None:
    for step in (QUEUED, WAITING):
        moves(
            advance,
            step,
            K.CANCEL,
            S.CANCELLED,
            (E.COMMIT,),
            cancel_requested=True,
            intent=R.CANCELLED,
            reason=R.CANCELLED,
        )


def test_a_step_that_nobody_claims_in_time_fails_with_timeout(advance: Advance) -> None:
    moves(
        advance,
        QUEUED,
        K.QUEUE_TIMEOUT,
        S.FAILED,
        (E.COMMIT,),
        intent=R.TIMEOUT,
        reason=R.TIMEOUT,
    )


def test_a_claim_raises_the_epoch_and_checks_headroom_under_a_timer(advance: Advance) -> None:
    moves(advance, QUEUED, K.CLAIMED, S.LEASED, (E.ARM_READY, E.CHECK_HEADROOM), epoch=5)


def test_a_claim_ends_the_wait_for_memory(advance: Advance) -> None:
    effects = (E.ARM_READY, E.CHECK_HEADROOM)
    moves(advance, WAITING, K.CLAIMED, S.LEASED, effects, epoch=5, vram_wait=False)


# Leased -------------------------------------------------------------------------------------------


def test_a_runner_is_spawned_only_once_headroom_is_there(advance: Advance) -> None:
    moves(advance, CLAIMED, K.HEADROOM, S.LEASED, (E.SPAWN,), spawned=True)


def test_busy_memory_puts_the_step_back_uncharged_and_its_clean_slot_is_free(
    advance: Advance,
) -> None:
    back_in_queue(advance, CLAIMED, K.VRAM_BUSY, (E.FREE_SLOT, E.COMMIT), vram_wait=True)


def test_a_requested_cancel_is_not_forgotten_on_the_way_back_to_the_queue(
    advance: Advance,
) -> None:
    moves(
        advance,
        replace(CLAIMED, cancel_requested=True),
        K.VRAM_BUSY,
        S.CANCELLED,
        (E.FREE_SLOT, E.COMMIT),
        vram_wait=True,
        reason=R.CANCELLED,
    )


def test_memory_that_stays_busy_too_long_fails_the_step_loudly(advance: Advance) -> None:
    moves(
        advance,
        CLAIMED,
        K.VRAM_WAIT_OVER,
        S.FAILED,
        (E.FREE_SLOT, E.COMMIT),
        intent=R.INSUFFICIENT_VRAM,
        reason=R.INSUFFICIENT_VRAM,
        last_reason=R.INSUFFICIENT_VRAM,
    )


def test_a_step_that_this_release_cannot_read_fails_and_hurts_nobody(advance: Advance) -> None:
    moves(
        advance,
        CLAIMED,
        K.UNREADABLE,
        S.FAILED,
        (E.FREE_SLOT, E.COMMIT),
        intent=R.INTERNAL,
        reason=R.INTERNAL,
        last_reason=R.INTERNAL,
    )


def test_ready_commits_running_under_a_timer_and_sends_nothing_yet(advance: Advance) -> None:
    moves(advance, SPAWNED, K.READY, S.LEASED, (E.COMMIT_RUNNING, E.ARM_START), ready=True)


def test_a_start_that_cannot_be_written_is_not_the_runners_fault_and_costs_a_loss(
    advance: Advance,
) -> None:
    moves(
        advance,
        READY,
        K.START_TIMEOUT,
        S.STOPPING,
        BY_FORCE,
        losses=3,
        intent=R.INFRA_UNAVAILABLE,
        signal=Signal.TERM,
    )


def test_go_is_sent_and_the_attempt_charged_once_running_is_committed(advance: Advance) -> None:
    moves(
        advance,
        READY,
        K.RUNNING_COMMITTED,
        S.RUNNING,
        (E.GO, E.ARM_TIMEOUT),
        attempt=2,
        go_sent=True,
    )


def test_memory_that_is_taken_before_go_ends_the_runner_and_costs_nothing(
    advance: Advance,
) -> None:
    moves(advance, READY, K.VRAM_BUSY, S.STOPPING, BY_FORCE, vram_wait=True, signal=Signal.TERM)


def test_memory_that_is_taken_before_go_and_stays_too_long_fails_the_step(
    advance: Advance,
) -> None:
    moves(
        advance,
        READY,
        K.VRAM_WAIT_OVER,
        S.STOPPING,
        BY_FORCE,
        intent=R.INSUFFICIENT_VRAM,
        signal=Signal.TERM,
    )


def test_a_runner_that_ends_before_go_costs_a_loss(advance: Advance) -> None:
    for step in (SPAWNED, READY):
        for kind in (K.EXIT, K.FAILURE):
            moves(advance, step, kind, S.STOPPING, BY_ITSELF, losses=3)


def test_a_runner_that_is_not_ready_or_talks_nonsense_costs_a_loss_and_is_ended(
    advance: Advance,
) -> None:
    for step, kind in (
        (CLAIMED, K.READY_TIMEOUT),
        (SPAWNED, K.READY_TIMEOUT),
        (SPAWNED, K.PROTOCOL_ERROR),
        (READY, K.PROTOCOL_ERROR),
    ):
        moves(
            advance,
            step,
            kind,
            S.STOPPING,
            BY_FORCE,
            losses=3,
            intent=R.RUNNER_CRASHED,
            signal=Signal.TERM,
        )


def test_a_lease_lost_before_go_costs_a_loss(advance: Advance) -> None:
    moves(
        advance,
        SPAWNED,
        K.LEASE_GONE,
        S.STOPPING,
        BY_FORCE,
        losses=3,
        intent=R.LEASE_LOST,
        signal=Signal.TERM,
    )


def test_a_cancel_before_go_ends_the_runner_and_costs_nothing(advance: Advance) -> None:
    moves(
        advance,
        SPAWNED,
        K.CANCEL,
        S.STOPPING,
        BY_FORCE,
        cancel_requested=True,
        intent=R.CANCELLED,
        signal=Signal.TERM,
    )


def test_a_drain_before_go_ends_the_runner_and_costs_nothing(advance: Advance) -> None:
    moves(
        advance,
        SPAWNED,
        K.DRAIN,
        S.STOPPING,
        BY_FORCE,
        intent=R.DRAINED,
        signal=Signal.TERM,
    )


# Running ------------------------------------------------------------------------------------------


def test_a_runner_that_has_spoken_its_last_gets_the_exit_grace_first(advance: Advance) -> None:
    for kind in (K.RESULT, K.FAILURE, K.EXIT):
        moves(advance, RUNNING, kind, S.STOPPING, BY_ITSELF)


def test_a_running_step_is_ended_by_force_and_remembers_the_cause(advance: Advance) -> None:
    causes = {
        K.TIMEOUT: R.TIMEOUT,
        K.STORE_AWAY: R.INFRA_UNAVAILABLE,
        K.DRAIN: R.DRAINED,
        K.LEASE_GONE: R.LEASE_LOST,
        K.PROTOCOL_ERROR: R.RUNNER_CRASHED,
    }
    for kind, intent in causes.items():
        moves(advance, RUNNING, kind, S.STOPPING, BY_FORCE, intent=intent, signal=Signal.TERM)


def test_a_cancel_of_a_running_step_is_remembered_as_a_request_and_as_the_cause(
    advance: Advance,
) -> None:
    moves(
        advance,
        RUNNING,
        K.CANCEL,
        S.STOPPING,
        BY_FORCE,
        cancel_requested=True,
        intent=R.CANCELLED,
        signal=Signal.TERM,
    )


# Stopping -----------------------------------------------------------------------------------------


def test_a_runner_that_does_not_leave_by_itself_is_asked_and_then_terminated(
    advance: Advance,
) -> None:
    moves(
        advance,
        FINISHING,
        K.EXIT_GRACE_OVER,
        S.STOPPING,
        (E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE),
        signal=Signal.TERM,
    )


def test_a_runner_that_survives_its_grace_is_killed_under_a_deadline(advance: Advance) -> None:
    moves(
        advance,
        TERMINATED,
        K.TERM_GRACE_OVER,
        S.STOPPING,
        (E.KILL, E.ARM_KILL),
        signal=Signal.KILL,
    )


def test_a_tree_that_cannot_be_killed_puts_its_slot_in_quarantine(advance: Advance) -> None:
    moves(
        advance,
        KILLED,
        Event(K.KILL_DEADLINE, R.GPU_UNHEALTHY),
        S.RECLAIMING,
        (E.QUARANTINE_SLOT, E.RECORD, E.VERIFY, E.ARM_RECLAIM),
        evidence=R.GPU_UNHEALTHY,
        slot=SlotVerdict.QUARANTINED,
    )


def test_memory_is_verified_once_the_whole_tree_is_gone(advance: Advance) -> None:
    for step in (FINISHING, TERMINATED, KILLED):
        moves(
            advance,
            step,
            Event(K.TREE_GONE, R.OOM),
            S.RECLAIMING,
            (E.RECORD, E.VERIFY, E.ARM_RECLAIM),
            evidence=R.OOM,
        )


def test_a_cancel_of_a_stopping_step_is_remembered_and_hurries_nothing(advance: Advance) -> None:
    for step in (FINISHING, TERMINATED, KILLED):
        moves(advance, step, K.CANCEL, S.STOPPING, cancel_requested=True)


def test_news_that_comes_while_a_step_stops_changes_nothing(advance: Advance) -> None:
    for step in (FINISHING, TERMINATED, KILLED):
        for kind in sorted(LATE_NEWS | {K.DRAIN}):
            moves(advance, step, kind, S.STOPPING)
    for step in (TERMINATED, KILLED):
        moves(advance, step, K.LEASE_GONE, S.STOPPING)


def test_at_the_fence_a_runner_that_was_ending_by_itself_is_ended_by_force(
    advance: Advance,
) -> None:
    moves(
        advance,
        FINISHING,
        K.LEASE_GONE,
        S.STOPPING,
        (E.CANCEL_POLITELY, E.TERMINATE, E.ARM_TERM_GRACE),
        signal=Signal.TERM,
    )


def test_late_news_never_disturbs_the_verification_or_the_publishing(advance: Advance) -> None:
    for step in (GONE, UNKILLABLE, PUBLISHING):
        for kind in sorted(LATE_NEWS | {K.TREE_GONE}):
            moves(advance, step, kind, step.state)


def test_evidence_must_come_with_its_classification(advance: Advance) -> None:
    for step, kind in ((FINISHING, K.TREE_GONE), (KILLED, K.KILL_DEADLINE)):
        with pytest.raises(IllegalEvent):
            advance(step, Event(kind))


def test_a_runner_cannot_say_what_only_we_decide(advance: Advance) -> None:
    for reason in (R.CANCELLED, R.DRAINED, R.ATTEMPTS_EXHAUSTED):
        after, _ = advance(FINISHING, Event(K.TREE_GONE, reason))
        assert after.evidence is R.RUNNER_CRASHED


def test_nothing_is_completed_before_go(advance: Advance) -> None:
    stopping = replace(SPAWNED, state=S.STOPPING)
    after, _ = advance(stopping, Event(K.TREE_GONE, R.COMPLETED))
    assert after.evidence is R.RUNNER_CRASHED


# Reclaiming ---------------------------------------------------------------------------------------


def test_a_verified_slot_is_free_before_images_are_stored(advance: Advance) -> None:
    moves(
        advance,
        GONE,
        K.VERIFIED,
        S.PUBLISHING,
        (E.FREE_SLOT, E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
        slot=SlotVerdict.FREE,
    )


def test_a_quarantined_slot_is_not_freed_by_the_step_that_dirtied_it(advance: Advance) -> None:
    moves(
        advance,
        UNKILLABLE,
        K.VERIFIED,
        S.PUBLISHING,
        (E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
    )


def test_memory_that_does_not_come_back_puts_the_slot_in_quarantine(advance: Advance) -> None:
    moves(
        advance,
        GONE,
        K.RECLAIM_DEADLINE,
        S.PUBLISHING,
        (E.QUARANTINE_SLOT, E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
        slot=SlotVerdict.QUARANTINED,
    )


def test_a_slot_is_not_quarantined_twice(advance: Advance) -> None:
    moves(
        advance,
        UNKILLABLE,
        K.RECLAIM_DEADLINE,
        S.PUBLISHING,
        (E.RECORD, E.PUBLISH, E.ARM_PUBLISH),
    )


def test_a_cancel_while_memory_or_images_are_looked_after_is_only_remembered(
    advance: Advance,
) -> None:
    for step in (GONE, PUBLISHING):
        moves(advance, step, K.CANCEL, step.state, cancel_requested=True)


def test_a_drain_waits_for_memory_and_images(advance: Advance) -> None:
    for step in (GONE, PUBLISHING):
        moves(advance, step, K.DRAIN, step.state)


def test_a_lost_lease_does_not_interrupt_the_verification(advance: Advance) -> None:
    moves(advance, GONE, K.LEASE_GONE, S.RECLAIMING)


# Publishing ---------------------------------------------------------------------------------------


def test_the_verdict_is_committed_once_everything_is_stored(advance: Advance) -> None:
    moves(
        advance,
        PUBLISHING,
        K.PUBLISHED,
        S.SUCCEEDED,
        (E.COMMIT,),
        reason=R.COMPLETED,
        last_reason=R.COMPLETED,
        spawned=False,
    )


def test_good_work_that_cannot_be_stored_in_time_is_tried_again_for_a_loss(
    advance: Advance,
) -> None:
    back_in_queue(
        advance,
        PUBLISHING,
        K.PUBLISH_DEADLINE,
        (E.COMMIT,),
        losses=3,
        last_reason=R.INFRA_UNAVAILABLE,
    )


def test_a_store_that_is_down_does_not_turn_a_final_failure_into_a_retry(
    advance: Advance,
) -> None:
    moves(
        advance,
        replace(PUBLISHING, evidence=R.OOM),
        K.PUBLISH_DEADLINE,
        S.FAILED,
        (E.COMMIT,),
        reason=R.OOM,
        last_reason=R.OOM,
        spawned=False,
    )


def test_a_lease_lost_while_publishing_outweighs_good_work(advance: Advance) -> None:
    back_in_queue(
        advance, PUBLISHING, K.LEASE_GONE, (E.COMMIT,), losses=3, last_reason=R.LEASE_LOST
    )


# At any time --------------------------------------------------------------------------------------


def test_an_expired_lease_takes_the_step_from_its_owner_for_a_loss(advance: Advance) -> None:
    for step in (CLAIMED, SPAWNED, RUNNING, TERMINATED, GONE, PUBLISHING):
        back_in_queue(
            advance,
            step,
            K.LEASE_EXPIRED,
            (E.COMMIT,),
            epoch=6,
            losses=3,
            last_reason=R.LEASE_LOST,
        )


def test_a_step_that_has_ended_absorbs_everything(advance: Advance) -> None:
    for step in ENDED:
        for kind in EventKind:
            assert advance(step, Event(kind)) == (step, ())


def test_what_the_table_does_not_list_is_illegal(advance: Advance) -> None:
    for step, legal in LEGAL:
        for kind in sorted(set(EventKind) - legal):
            with pytest.raises(IllegalEvent, match=step.state):
                advance(step, event(kind))


def test_what_the_table_lists_is_legal(advance: Advance) -> None:
    for step, legal in LEGAL:
        for kind in sorted(legal):
            advance(step, event(kind))


def test_every_state_is_among_the_situations(advance: Advance) -> None:
    assert {step.state for step in SITUATIONS} == set(StepState) - TERMINAL - {S.PENDING}
    assert {step.state for step in SITUATIONS} >= OWNED


CLAIMS: tuple[Claim, ...] = tuple(
    claim for name, claim in list(globals().items()) if name.startswith("test_")
)
