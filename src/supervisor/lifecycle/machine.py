"""The life of a step, as a table. It has no clock, no process and no database.

Theory of operation
-------------------
`advance(step, event)` looks up `(step.state, event.kind)` in `TABLE` and returns the next `Step`
and the effects that the caller must carry out: the executor
(`supervisor.execution.executor`) for a step that this worker owns, the rescuer for one whose owner
is gone or that no worker claims. What waits in the queue or behind an earlier step is moved by SQL
(`shared.db`), which needs no machine.

* Events are facts: a frame arrived, a process is gone, a timer fired. A timer is an event like any
  other, so no test needs a clock. A timer belongs to the state that armed it; the executor drops it
  when the state changes.
* An event for which the table has no row is a bug of the caller: `IllegalEvent` is raised and
  nothing has changed. A terminal state is the exception: it absorbs everything.
* A slot returns to service only with proof (`VERIFIED`), or is taken out of it
  (`QUARANTINE_SLOT`). No row leaves `reclaiming` without one of the two, and once a runner existed
  no row reaches an end without passing `reclaiming`. That is the product's promise, in rows.
* Three counters have three meanings. `epoch` is only a fence: the writes of a former owner miss.
  `attempt` rises when GO is sent. `losses` rises when an execution ended before or outside of
  anything the runner did. The last two are bounded, so a poisonous step cannot circulate.
* The first cause wins. When we decide to stop a step, the reason is set as its `intent`; evidence
  found later does not replace it. Without an intent, the classification that arrives with
  `TREE_GONE` decides.
"""

from dataclasses import replace
from typing import Any

from shared.states import OWNED, TERMINAL, TRANSIENT, Reason, StepState
from supervisor.lifecycle.step import (
    E,
    Effect,
    Event,
    IllegalEvent,
    Row,
    S,
    Signal,
    SlotVerdict,
    Step,
    outcome,
)
from supervisor.lifecycle.table import TABLE

# What an effect leaves on the step, whichever row orders it.
_MARKS: dict[Effect, dict[str, Any]] = {
    E.SPAWN: {"spawned": True},
    E.TERMINATE: {"signal": Signal.TERM},
    E.KILL: {"signal": Signal.KILL},
    E.FREE_SLOT: {"slot": SlotVerdict.FREE},
    E.QUARANTINE_SLOT: {"slot": SlotVerdict.QUARANTINED},
}


def advance(
    step: Step, event: Event, table: tuple[Row, ...] = TABLE
) -> tuple[Step, tuple[Effect, ...]]:
    """Return the step after `event` and what must now be done.

    Raises `IllegalEvent`, having changed nothing, where the table has no row. `table` is a
    parameter so that a test can take a row away and see a claim fail.
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
    for effect in row.effects:
        step = replace(step, **_MARKS.get(effect, {}))
    return replace(step, state=row.target), row.effects


# The verdict --------------------------------------------------------------------------------------


def verdict(step: Step) -> Step:
    """Where an execution that ended leads: to a terminal state, or back to the queue.

    Good work is kept even when a cancel came in the meantime. A cancel beats a retry. A drain is
    our own decision and costs the step nothing, nor does a wait for memory. A transient failure is
    tried again while both bounds allow it; any other would only happen again.
    """
    if step.vram_wait and step.intent is None:
        # What the runner said while we ended it does not count.
        if step.cancel_requested:
            return _ended(step, S.CANCELLED, Reason.CANCELLED)
        return replace(_requeued(step), vram_wait=True)
    reason = outcome(step)
    if step.state in OWNED:  # otherwise no execution ended
        step = replace(step, last_reason=reason)
    if reason is Reason.COMPLETED:
        return _ended(step, S.SUCCEEDED, reason)
    if reason is Reason.CANCELLED or (step.cancel_requested and reason in TRANSIENT):
        return _ended(step, S.CANCELLED, Reason.CANCELLED)
    if reason is Reason.DRAINED:
        refund = 1 if step.go_sent else 0
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
