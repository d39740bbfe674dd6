"""What holds for every step, whatever happens to it, in whatever order and how often.

`Watch` accompanies a step, sees every move and asserts the invariants of DESIGN §4, as far as
they are pure. It remembers what a `Step` itself does not say: which timer runs, which signals went
out, what became of the slot. Two tests drive it:

* hypothesis, with random events: illegal ones, duplicates, any order, many claims in a row;
* a walk through every reachable situation with small bounds, which leaves nothing to chance.

Neither models the world. What cannot happen there may happen here, and must be refused or survived.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.states import OWNED, TERMINAL, TRANSIENT, Reason, StepState
from supervisor.lifecycle.machine import advance
from supervisor.lifecycle.step import (
    Effect,
    Event,
    EventKind,
    IllegalEvent,
    Signal,
    SlotVerdict,
    Step,
)
from supervisor.lifecycle.table import TABLE

S, E, K, R = StepState, Effect, EventKind, Reason
Effects = tuple[Effect, ...]

FIRES = {
    E.ARM_READY: K.READY_TIMEOUT,
    E.ARM_START: K.START_TIMEOUT,
    E.ARM_TIMEOUT: K.TIMEOUT,
    E.ARM_EXIT_GRACE: K.EXIT_GRACE_OVER,
    E.ARM_TERM_GRACE: K.TERM_GRACE_OVER,
    E.ARM_KILL: K.KILL_DEADLINE,
    E.ARM_RECLAIM: K.RECLAIM_DEADLINE,
    E.ARM_PUBLISH: K.PUBLISH_DEADLINE,
}
CARRIES = (K.TREE_GONE, K.KILL_DEADLINE)
# The longest way by timers alone: one of ready, start, run and exit grace; term grace, kill,
# reclaim, publish.
LONGEST_WAIT = 5


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen since the claim."""

    timer: Effect | None = None
    done: Effects = ()  # SPAWN, GO, the signals and what became of the slot, in order
    committed: bool = False  # RUNNING_COMMITTED came
    attempt: int = 0  # at the claim
    losses: int = 0


WATCHED = (E.SPAWN, E.COMMIT_RUNNING, E.GO, E.TERMINATE, E.KILL, E.FREE_SLOT, E.QUARANTINE_SLOT)


def observe(watch: Watch, before: Step, event: Event, after: Step, effects: Effects) -> Watch:
    """Assert every invariant of one legal move and return what is now known."""
    if event.kind is K.CLAIMED:
        watch = Watch(attempt=before.attempt, losses=before.losses)
    seen = replace(
        watch,
        timer=_timer(watch.timer, before, after, effects),
        done=watch.done + tuple(effect for effect in effects if effect in WATCHED),
        committed=watch.committed or (event.kind is K.RUNNING_COMMITTED and E.GO in effects),
    )
    _check_counters(before, event, after, effects)
    _check_timers(seen, after)
    _check_order(seen)
    _check_slot(seen, before, event, effects)
    _check_path(before, event, after, effects)
    _check_cause(seen, before, event, after)
    _check_words(after)
    return seen


def _timer(running: Effect | None, before: Step, after: Step, effects: Effects) -> Effect | None:
    """A timer belongs to its state: leaving drops it, arming another replaces it."""
    armed = [effect for effect in effects if effect in FIRES]
    assert len(armed) <= 1
    if armed:
        return armed[0]
    return running if before.state is after.state else None


def _check_counters(before: Step, event: Event, after: Step, effects: Effects) -> None:
    fenced = event.kind in (K.CLAIMED, K.LEASE_EXPIRED)
    assert after.epoch == before.epoch + fenced
    refunded = after.state is S.QUEUED and after.last_reason is R.DRAINED and before.go_sent
    assert after.attempt == before.attempt + (E.GO in effects) - refunded
    assert after.losses in (before.losses, before.losses + 1)
    assert 0 <= after.attempt <= after.max_attempts
    # One more than the bound: a try may be lost twice, before GO and while it is published.
    assert 0 <= after.losses <= after.max_losses + 1
    if after.state is S.QUEUED:  # so another execution is always one that may be made
        assert after.attempt < after.max_attempts
        assert after.losses < after.max_losses


def _check_timers(seen: Watch, after: Step) -> None:
    """Every owned step waits under one timer that it can take, and under no other."""
    if after.state not in OWNED:
        assert seen.timer is None
        return
    assert seen.timer is not None
    assert takes_timers(after) == {seen.timer}


def _check_order(seen: Watch) -> None:
    done = seen.done
    assert len(set(done)) == len(done), "each of these happens once per claim"
    if E.GO in done:
        assert seen.committed
        assert done.index(E.SPAWN) < done.index(E.COMMIT_RUNNING) < done.index(E.GO)
    if E.KILL in done:
        assert done.index(E.TERMINATE) < done.index(E.KILL)
    if E.FREE_SLOT in done:  # free is free: a later quarantine would hit the next occupant
        assert E.QUARANTINE_SLOT not in done[done.index(E.FREE_SLOT) :]


def _check_slot(seen: Watch, before: Step, event: Event, effects: Effects) -> None:
    if E.FREE_SLOT in effects:
        assert event.kind is K.VERIFIED or E.SPAWN not in seen.done
    if E.QUARANTINE_SLOT in effects:
        assert event.kind in (K.KILL_DEADLINE, K.RECLAIM_DEADLINE)
    judged = E.FREE_SLOT in seen.done or E.QUARANTINE_SLOT in seen.done
    if E.PUBLISH in effects:
        assert judged
    owner_ended = E.COMMIT in effects and before.state in OWNED
    if owner_ended and event.kind is not K.LEASE_EXPIRED:
        assert judged


def _check_path(before: Step, event: Event, after: Step, effects: Effects) -> None:
    moved = before.state is not after.state
    if moved and after.state is S.RECLAIMING:
        assert event.kind in CARRIES
    if moved and after.state in (S.STOPPING, S.RECLAIMING, S.PUBLISHING):
        assert E.RECORD in effects
    if before.spawned and after.state not in OWNED and event.kind is not K.LEASE_EXPIRED:
        assert before.state is S.PUBLISHING
    # Whatever ends or begins a wait is one transaction, and nothing else is.
    assert (E.COMMIT in effects) == (moved and after.state not in OWNED)
    if after.state is S.SUCCEEDED:
        assert before.go_sent and before.evidence is R.COMPLETED


def _check_cause(seen: Watch, before: Step, event: Event, after: Step) -> None:
    """The first cause wins, good work is kept, a cancel beats a retry, a drain is free."""
    assert after.cancel_requested >= before.cancel_requested
    assert not (after.state is S.QUEUED and after.cancel_requested)
    if before.intent and after.state in OWNED:
        assert after.intent is before.intent
    if event.kind not in (K.PUBLISHED, K.PUBLISH_DEADLINE):
        return
    if before.vram_wait and after.vram_wait and after.intent is None:
        back = S.CANCELLED if before.cancel_requested else S.QUEUED
        assert (after.state, after.attempt, after.losses) == (back, seen.attempt, seen.losses)
        return
    cause = before.intent or before.evidence
    if event.kind is K.PUBLISH_DEADLINE and (cause is R.COMPLETED or cause in TRANSIENT):
        cause = R.INFRA_UNAVAILABLE  # the work is lost, and may be done again
    assert after.last_reason is cause
    if cause is R.COMPLETED:
        assert after.state is S.SUCCEEDED
    elif cause is R.CANCELLED or (cause in TRANSIENT and before.cancel_requested):
        assert after.state is S.CANCELLED
    elif cause is R.DRAINED:
        assert (after.state, after.attempt, after.losses) == (S.QUEUED, seen.attempt, seen.losses)
    elif cause not in TRANSIENT:
        assert (after.state, after.reason) == (S.FAILED, cause)


def _check_words(after: Step) -> None:
    """What the CHECK constraints of the database demand, too."""
    assert (after.state in TERMINAL) == (after.reason is not None)
    if after.state is S.QUEUED:
        kept = Step(
            state=S.QUEUED,
            epoch=after.epoch,
            attempt=after.attempt,
            losses=after.losses,
            max_attempts=after.max_attempts,
            max_losses=after.max_losses,
            last_reason=after.last_reason,
            vram_wait=after.vram_wait,
        )
        assert after == kept, "nothing of a claim outlives it"


def fire(kind: EventKind) -> Event:
    return Event(kind, R.RUNNER_CRASHED if kind in CARRIES else None)


def is_legal(step: Step, event: Event) -> bool:
    try:
        advance(step, event)
    except IllegalEvent:
        return False
    return True


@cache
def takes_timers(step: Step) -> frozenset[Effect]:
    """The timers that may fire now."""
    return frozenset(timer for timer, kind in FIRES.items() if is_legal(step, fire(kind)))


def wait_out(step: Step, watch: Watch) -> int:
    """How many timers must fire, with no other event at all, until no worker owns the step."""
    fired = 0
    while watch.timer is not None:
        event = fire(FIRES[watch.timer])
        after, effects = advance(step, event)
        watch = observe(watch, step, event, after, effects)
        step, fired = after, fired + 1
        assert fired <= LONGEST_WAIT
    return fired


# Random walks -------------------------------------------------------------------------------------

EVENTS = [Event(kind) for kind in EventKind if kind not in CARRIES]
EVENTS += [Event(kind, reason) for kind in CARRIES for reason in (*Reason, None)]


class Lifecycle(RuleBasedStateMachine):
    """One step and everything that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step(state=S.QUEUED, max_attempts=2, max_losses=2)
        self.watch = Watch()
        self.last: Event | None = None

    def apply(self, event: Event) -> None:
        before = replace(self.step)
        try:
            after, effects = advance(self.step, event)
        except IllegalEvent:
            assert self.step == before
            return
        assert self.step == before, "steps are values"
        if before.state in TERMINAL:
            assert (after, effects) == (before, ())
            return
        self.watch = observe(self.watch, before, event, after, effects)
        self.step, self.last = after, event

    @rule(event=st.sampled_from(EVENTS))
    def something_happens(self, event: Event) -> None:
        self.apply(event)

    # Most random events are illegal; without this rule no walk would come far.
    @precondition(lambda self: self.step.state not in TERMINAL)
    @rule(data=st.data())
    def something_possible_happens(self, data: st.DataObject) -> None:
        possible = [event for event in EVENTS if is_legal(self.step, event)]
        self.apply(data.draw(st.sampled_from(possible)))

    @precondition(lambda self: self.last is not None)
    @rule()
    def the_same_happens_again(self) -> None:
        assert self.last is not None
        self.apply(self.last)

    @invariant()
    def the_wait_is_bounded(self) -> None:
        wait_out(self.step, self.watch)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)


# Every situation ----------------------------------------------------------------------------------

# One reason of each sort: good, final, transient, and two that only we may say.
SORTS = (R.COMPLETED, R.OOM, R.RUNNER_CRASHED, R.CANCELLED, R.DRAINED)
FEW_EVENTS = [event for event in EVENTS if event.kind not in CARRIES]
FEW_EVENTS += [Event(kind, reason) for kind in CARRIES for reason in SORTS]
Situation = tuple[Step, Watch]


def successors(situation: Situation) -> list[Situation]:
    before, watch = situation
    reached = []
    for event in FEW_EVENTS:
        try:
            after, effects = advance(before, event)
        except IllegalEvent:
            continue
        seen = observe(watch, before, event, after, effects)
        if after.state not in TERMINAL:
            # The epoch only counts and the latest reason only informs: neither decides anything.
            reached.append((replace(after, epoch=0, last_reason=None), seen))
    return reached


@cache
def every_situation() -> set[Situation]:
    """Walk to every situation that can be reached, checking every move on the way."""
    situations: set[Situation] = set()
    ahead: list[Situation] = [(Step(state=S.QUEUED, max_attempts=2, max_losses=2), Watch())]
    while ahead:
        situation = ahead.pop()
        if situation not in situations:
            situations.add(situation)
            ahead.extend(successors(situation))
    return situations


def test_the_invariants_hold_in_every_reachable_situation() -> None:
    situations = every_situation()
    assert {step.state for step, _ in situations} == set(StepState) - TERMINAL - {S.PENDING}
    assert {step.signal for step, _ in situations} == set(Signal)
    assert {step.slot for step, _ in situations} == {*SlotVerdict, None}
    assert max(wait_out(step, watch) for step, watch in situations) == LONGEST_WAIT


def test_every_row_is_used_by_some_reachable_situation() -> None:
    used = {
        next(
            at
            for at, row in enumerate(TABLE)
            if (row.source, row.kind) == (step.state, event.kind)
            and (row.guard is None or row.guard(step))
        )
        for step, _ in every_situation()
        for event in FEW_EVENTS
        if is_legal(step, event)
    }
    assert used == set(range(len(TABLE)))
