"""The life of a step, as a table. Sans-IO: no clock, no process, no database.

Theory of operation
-------------------
`advance(step, event)` looks up `(step.state, event.kind)` in `TABLE` and returns the next `Step`
and the effects that somebody has to carry out. That somebody is the driver
(`supervisor.execution.executor`)
for an owned step, the rescuer for an abandoned one, and the API's cancel statement for one that
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

from dataclasses import replace

from shared.states import OWNED, TERMINAL, TRANSIENT, Reason, StepState
from supervisor.lifecycle.step import (
    E,
    Effect,
    Event,
    IllegalEvent,
    Row,
    S,
    Signal,
    Step,
    outcome,
)
from supervisor.lifecycle.table import TABLE


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
