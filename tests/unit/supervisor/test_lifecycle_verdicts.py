"""Where an execution leads: claims as whole stories, from the claim to the verdict.

Plain functions of an `advance`, like those of `test_lifecycle_table`.
"""

from __future__ import annotations

import pytest
from tests.unit.supervisor.test_lifecycle_table import Advance, Claim

from shared.states import TRANSIENT, Reason, StepState
from supervisor.lifecycle import machine
from supervisor.lifecycle.step import Event, EventKind, IllegalEvent, SlotVerdict, Step, outcome

S, K, R = StepState, EventKind, Reason

QUEUED = Step(state=S.QUEUED)
UNTIL_GO = (K.CLAIMED, K.HEADROOM, K.READY, K.RUNNING_COMMITTED)
RECLAIMED = (K.VERIFIED, K.PUBLISHED)
FINAL = sorted(set(Reason) - TRANSIENT - {R.COMPLETED, R.CANCELLED, R.ATTEMPTS_EXHAUSTED})
SEEN = sorted(TRANSIENT - {R.DRAINED})  # transient, and possible as evidence


def gone(reason: Reason) -> Event:
    return Event(K.TREE_GONE, reason)


def after(advance: Advance, step: Step, *story: EventKind | Event) -> Step:
    for happened in story:
        step, _ = advance(step, Event(happened) if isinstance(happened, EventKind) else happened)
    return step


def crashed(advance: Advance, step: Step) -> Step:
    """One whole execution whose runner dies after GO."""
    return after(advance, step, *UNTIL_GO, K.EXIT, gone(R.RUNNER_CRASHED), *RECLAIMED)


def stillborn(advance: Advance, step: Step) -> Step:
    """One whole execution whose runner dies before GO."""
    return after(advance, step, K.CLAIMED, K.HEADROOM, K.EXIT, gone(R.RUNNER_CRASHED), *RECLAIMED)


@pytest.fixture
def advance() -> Advance:
    return machine.advance


def test_a_good_result_succeeds(advance: Advance) -> None:
    step = after(advance, QUEUED, *UNTIL_GO, K.RESULT, gone(R.COMPLETED), *RECLAIMED)
    assert (step.state, step.reason) == (S.SUCCEEDED, R.COMPLETED)
    assert (step.epoch, step.attempt, step.losses) == (1, 1, 0)


def test_a_good_result_succeeds_although_its_slot_went_to_quarantine(advance: Advance) -> None:
    story = (*UNTIL_GO, K.RESULT, gone(R.COMPLETED), K.RECLAIM_DEADLINE, K.PUBLISHED)
    step = after(advance, QUEUED, *story)
    assert (step.state, step.slot) == (S.SUCCEEDED, SlotVerdict.QUARANTINED)


def test_a_cancel_that_comes_after_a_good_result_does_not_undo_it(advance: Advance) -> None:
    story: list[EventKind | Event] = [*UNTIL_GO, K.RESULT, gone(R.COMPLETED), *RECLAIMED]
    for at in (5, 6, 7):  # while stopping, reclaiming, publishing
        step = after(advance, QUEUED, *story[:at], K.CANCEL, *story[at:])
        assert (step.state, step.cancel_requested) == (S.SUCCEEDED, True)


def test_a_result_that_comes_after_the_cancel_does_not_undo_it(advance: Advance) -> None:
    story = (*UNTIL_GO, K.CANCEL, K.RESULT, gone(R.COMPLETED), *RECLAIMED)
    assert after(advance, QUEUED, *story).reason is R.CANCELLED


def test_the_first_cause_wins(advance: Advance) -> None:
    story = (*UNTIL_GO, K.TIMEOUT, K.DRAIN, K.LEASE_GONE, gone(R.OOM), *RECLAIMED)
    step = after(advance, QUEUED, *story)
    assert (step.state, step.reason) == (S.FAILED, R.TIMEOUT)


def test_evidence_decides_when_nobody_meant_it_to_stop(advance: Advance) -> None:
    for reason in FINAL:
        step = after(advance, QUEUED, *UNTIL_GO, K.FAILURE, gone(reason), *RECLAIMED)
        assert (step.state, step.reason) == (S.FAILED, reason)


def test_what_is_transient_is_tried_again_for_an_attempt(advance: Advance) -> None:
    for reason in SEEN:
        step = after(advance, QUEUED, *UNTIL_GO, K.EXIT, gone(reason), *RECLAIMED)
        assert step == Step(state=S.QUEUED, epoch=1, attempt=1, last_reason=reason)


def test_a_runner_that_dies_before_go_is_tried_again_for_a_loss(advance: Advance) -> None:
    assert stillborn(advance, QUEUED) == Step(
        state=S.QUEUED, epoch=1, losses=1, last_reason=R.RUNNER_CRASHED
    )


def test_a_step_whose_memory_was_taken_before_go_waits_for_it_uncharged(
    advance: Advance,
) -> None:
    taken = (*UNTIL_GO[:-1], K.VRAM_BUSY)
    for reason in (
        R.RUNNER_CRASHED,
        R.OOM,
        R.GPU_UNHEALTHY,
    ):  # what the runner reported as it ended
        for verified in (K.VERIFIED, K.RECLAIM_DEADLINE):
            step = after(advance, QUEUED, *taken, gone(reason), verified, K.PUBLISHED)
            assert step == Step(state=S.QUEUED, epoch=1, vram_wait=True)


def test_a_cancel_beats_the_wait_for_memory(advance: Advance) -> None:
    story = (*UNTIL_GO[:-1], K.VRAM_BUSY, K.CANCEL, gone(R.RUNNER_CRASHED), *RECLAIMED)
    step = after(advance, QUEUED, *story)
    assert (step.state, step.reason) == (S.CANCELLED, R.CANCELLED)


def test_a_lost_lease_outweighs_the_wait_for_memory(advance: Advance) -> None:
    story = (*UNTIL_GO[:-1], K.VRAM_BUSY, gone(R.RUNNER_CRASHED), K.VERIFIED, K.LEASE_GONE)
    step = after(advance, QUEUED, *story)
    assert step == Step(state=S.QUEUED, epoch=1, losses=1, last_reason=R.LEASE_LOST)


def test_memory_that_was_taken_before_go_for_too_long_fails_the_step(advance: Advance) -> None:
    story = (*UNTIL_GO[:-1], K.VRAM_WAIT_OVER, gone(R.RUNNER_CRASHED), *RECLAIMED)
    step = after(advance, QUEUED, *story)
    assert (step.state, step.reason, step.attempt) == (S.FAILED, R.INSUFFICIENT_VRAM, 0)
    assert step.losses == 0


def test_the_last_attempt_exhausts_them_and_keeps_what_ended_it(advance: Advance) -> None:
    step = QUEUED
    for _ in range(QUEUED.max_attempts):
        assert step.state is S.QUEUED
        step = crashed(advance, step)
    assert (step.state, step.reason) == (S.FAILED, R.ATTEMPTS_EXHAUSTED)
    assert (step.attempt, step.last_reason) == (3, R.RUNNER_CRASHED)


def test_the_last_loss_exhausts_them_too(advance: Advance) -> None:
    step = QUEUED
    for _ in range(QUEUED.max_losses):
        assert step.state is S.QUEUED
        step = stillborn(advance, step)
    assert (step.state, step.reason) == (S.FAILED, R.ATTEMPTS_EXHAUSTED)
    assert (step.attempt, step.losses) == (0, 5)


def test_a_step_whose_owners_all_vanish_ends_exhausted(advance: Advance) -> None:
    step = QUEUED
    for _ in range(QUEUED.max_losses):
        step = after(advance, step, K.CLAIMED, K.LEASE_EXPIRED)
    assert (step.state, step.reason) == (S.FAILED, R.ATTEMPTS_EXHAUSTED)
    assert (step.last_reason, step.epoch) == (R.LEASE_LOST, 10)


def test_a_drain_costs_neither_attempt_nor_loss(advance: Advance) -> None:
    for begun in (UNTIL_GO, UNTIL_GO[:3], UNTIL_GO[:2], UNTIL_GO[:1]):
        step = after(advance, QUEUED, *begun, K.DRAIN, gone(R.RUNNER_CRASHED), *RECLAIMED)
        assert step == Step(state=S.QUEUED, epoch=1, last_reason=R.DRAINED)


def test_a_drain_of_the_last_attempt_leaves_it_to_be_made(advance: Advance) -> None:
    step = crashed(advance, crashed(advance, QUEUED))
    step = after(advance, step, *UNTIL_GO, K.DRAIN, gone(R.RUNNER_CRASHED), *RECLAIMED)
    assert (step.state, step.attempt) == (S.QUEUED, 2)


def test_a_cancel_beats_a_retry(advance: Advance) -> None:
    for reason in SEEN:
        step = after(advance, QUEUED, *UNTIL_GO, K.EXIT, K.CANCEL, gone(reason), *RECLAIMED)
        assert (step.state, step.reason) == (S.CANCELLED, R.CANCELLED)
        assert step.last_reason is reason


def test_a_cancel_beats_the_requeue_after_a_drain(advance: Advance) -> None:
    story = (*UNTIL_GO, K.DRAIN, K.CANCEL, gone(R.RUNNER_CRASHED), *RECLAIMED)
    assert after(advance, QUEUED, *story).state is S.CANCELLED


def test_a_cancel_beats_the_sweepers_requeue(advance: Advance) -> None:
    story = (*UNTIL_GO, K.RESULT, K.CANCEL, K.LEASE_EXPIRED)
    assert after(advance, QUEUED, *story).state is S.CANCELLED


def test_a_cancel_does_not_hide_a_failure_that_would_not_have_been_retried(
    advance: Advance,
) -> None:
    story = (*UNTIL_GO, K.FAILURE, K.CANCEL, gone(R.OOM), *RECLAIMED)
    assert after(advance, QUEUED, *story).reason is R.OOM


def test_a_cancelled_step_stays_cancelled_when_the_store_is_down(advance: Advance) -> None:
    story = (*UNTIL_GO, K.CANCEL, gone(R.COMPLETED), K.VERIFIED, K.PUBLISH_DEADLINE)
    step = after(advance, QUEUED, *story)
    assert (step.state, step.losses) == (S.CANCELLED, 0)


def test_the_reason_of_the_latest_try_replaces_that_of_the_one_before(advance: Advance) -> None:
    step = crashed(advance, QUEUED)
    assert step.last_reason is R.RUNNER_CRASHED
    step = after(advance, step, *UNTIL_GO, K.FAILURE, gone(R.OOM), *RECLAIMED)
    assert step.last_reason is R.OOM


def test_a_step_cancelled_in_the_queue_keeps_what_ended_its_latest_try(advance: Advance) -> None:
    step = after(advance, crashed(advance, QUEUED), K.CANCEL)
    assert (step.reason, step.last_reason) == (R.CANCELLED, R.RUNNER_CRASHED)


def test_a_try_cannot_be_judged_without_intent_or_evidence(advance: Advance) -> None:
    with pytest.raises(IllegalEvent):
        outcome(after(advance, QUEUED, *UNTIL_GO))


CLAIMS: tuple[Claim, ...] = tuple(
    claim for name, claim in list(globals().items()) if name.startswith("test_")
)
