"""Writes the events of one step in their order, without ever holding the step up.

Events are queued here and one task writes them, one transaction per batch. The kill chain must go
on while the database is away, so nothing waits for this queue except the two moments that must
(`commit running` before GO, and the verdict). Progress is written about twice a second, a runner's
log lines are cut off at 20 a second and counted, and both bound the queue.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio

from shared.errors import InfraUnavailable
from shared.events import Code, NewEvent
from shared.progress import StepProgress
from shared.protocol.messages import Log
from shared.states import StepState
from shared.step_store import Claim, Stale, StepStore
from shared.telemetry.traceparent import parse

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
LOGS_PER_S = 20
RETRY_S = 1.0
# What happens within it is written together. It is longer than a step on the CPU takes from the end
# of its processes to its verdict, which then need not wait for a transaction with less in it.
GATHER_S = 0.02
# Progress alone waits a little longer: the stages of a short step follow each other faster than
# anybody looks, and each transaction costs the step as much as one of its sampling steps.
GATHER_PROGRESS_S = 0.1


def log_events(events: Iterable[NewEvent], fields: Mapping[str, str]) -> None:
    """Log events of a step, so that the log says what the job's own record says.

    Except for the data of a runner's own lines, which may quote a prompt: the record goes with the
    job, the log stays.
    """
    for event in events:
        item = {} if event.item_index is None else {"item_index": event.item_index}
        log.log(
            logging.getLevelNamesMapping()[event.level],
            event.message,
            extra={
                "code": str(event.code),
                "payload": {
                    name: value for name, value in (event.payload or {}).items() if name != "data"
                },
                **item,
                **fields,
            },
        )


class EventRecorder:
    """Events and state of one claim. `run` writes them until `drain` returns the rest.

    `on_stale` is called once when the step belongs to another worker; nothing is written then.
    """

    def __init__(self, claim: Claim, store: StepStore, *, on_stale: Callable[[], None]) -> None:
        self._claim = claim
        self._store = store
        self._on_stale = on_stale
        self._events: list[NewEvent] = []
        self._state: StepState | None = None
        self._progress: dict[str, Any] | None = None  # waits to be written
        self._shown = claim.progress
        self._progress_written_at = -math.inf
        self._stages: set[str] = set()
        self._log_second = 0
        self._log_lines = 0  # in that second
        self._dropped = 0
        self._writing = anyio.Lock()
        self._wakeup = anyio.Event()
        self._urgent = anyio.Event()  # something else than progress is queued
        self._stopped = False

    def record(
        self,
        code: Code,
        message: str,
        *,
        level: str = "INFO",
        item_index: int | None = None,
        **payload: Any,
    ) -> None:
        """Queue an event of this step, and log it.

        An event that is written in a transaction of its own is logged with `log_events` once it is
        written.
        """
        event = NewEvent(
            code=code,
            message=message,
            level=level,
            step_id=self._claim.step_id,
            item_index=item_index,
            payload=payload or None,
        )
        self._events.append(event)
        self._wake()
        log_events([event], self.fields)

    @property
    def fields(self) -> dict[str, str]:
        """What ties a log line to its job, and to the request that created it."""
        claim = self._claim
        fields = {
            "job_id": str(claim.job_id),
            "step_id": str(claim.step_id),
            "correlation_id": claim.correlation_id,
        }
        if claim.client_request_id is not None:
            fields["client_request_id"] = claim.client_request_id
        if (trace := parse(claim.traceparent)) is not None:
            fields["trace_id"] = trace.trace_id
        return fields

    def record_state(self, state: StepState) -> None:
        """Queue the state of the step; only the latest one counts."""
        self._state = state
        self._wake()

    def _wake(self) -> None:
        self._wakeup.set()
        self._urgent.set()

    def record_runner_log(self, line: Log) -> None:
        """Queue a runner's own line, or count it when there were too many this second."""
        second = int(anyio.current_time())
        if self._log_second != second:
            self._record_dropped()
            self._log_second, self._log_lines = second, 0
        self._log_lines += 1
        if self._log_lines > LOGS_PER_S:
            self._dropped += 1
            return
        self.record(
            Code.RUNNER_LOG,
            line.message,
            level=line.level,
            item_index=line.item_index,
            runner_code=line.code,
            data=line.payload,
        )

    def _record_dropped(self) -> None:
        """Sum up a second that is over. More often, the summaries would be a flood themselves."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.record(
                Code.LOGS_DROPPED,
                f"{dropped} log lines of the runner were dropped (over {LOGS_PER_S} a second)",
                level="WARNING",
                dropped=dropped,
            )

    def record_progress(self, progress: StepProgress, **position: Any) -> None:
        """Queue how far the job is. The number that clients saw never goes back."""
        claim = self._claim
        total = (claim.position + progress.total) / claim.chain_length
        self._shown = max(self._shown, round(total, 4))
        self._begin_stage(position.get("stage"))
        if self._progress is None:
            self._wakeup.set()
        self._progress = {
            "progress": self._shown,
            **position,
            "count": claim.count,
            "completed": len(progress.done) if claim.position + 1 == claim.chain_length else 0,
        }

    def _begin_stage(self, stage: str | None) -> None:
        """The first progress of a stage is written at once: it says when the stage began."""
        if stage is None or stage in self._stages:
            return
        self._stages.add(stage)
        if self._progress is not None:
            self._append_progress(self._progress)
        self._progress_written_at = -math.inf
        self._wakeup.set()

    async def run(self) -> None:
        """Write what is queued, until `drain` or a stale claim."""
        while not self._stopped:
            with anyio.move_on_after(self._progress_due_in_s()):
                await self._wakeup.wait()
            with anyio.move_on_after(GATHER_PROGRESS_S - GATHER_S):
                await self._urgent.wait()
            await anyio.sleep(GATHER_S)
            self._wakeup = anyio.Event()
            self._urgent = anyio.Event()
            await self.flush()

    def _progress_due_in_s(self) -> float:
        if self._progress is None:
            return math.inf
        return max(0.0, self._progress_written_at + PROGRESS_EVERY_S - anyio.current_time())

    async def flush(self) -> None:
        """Write everything that is queued by now; keep it and return when the database is away."""
        async with self._writing:
            self._append_due(everything=False)
            state, events = self._state, self._events
            if state is None and not events:
                return
            self._state, self._events = None, []
            try:
                await self._store.record(self._claim, state, events)
            except Stale:
                self._stopped = True
                self._on_stale()
            except InfraUnavailable as error:
                log.warning("events wait: %s", error, extra=self.fields)
                self._state, self._events = self._state or state, [*events, *self._events]
                await anyio.sleep(RETRY_S)
                self._wake()

    async def drain(self) -> list[NewEvent]:
        """Stop writing and return what is left, for the verdict's own transaction."""
        self._stopped = True
        self._wake()
        async with self._writing:
            self._append_due(everything=True)
            events, self._events, self._state = self._events, [], None
            return events

    def _append_due(self, *, everything: bool) -> None:
        """Queue what was held back and is due now: the count of dropped lines, and progress."""
        now = anyio.current_time()
        if everything or int(now) != self._log_second:
            self._record_dropped()
        if self._progress is not None and (everything or not self._progress_due_in_s()):
            self._append_progress(self._progress)
            self._progress_written_at = now

    def _append_progress(self, payload: dict[str, Any]) -> None:
        self._progress = None
        # Not by `record`: it is not logged, and the item is named in the column *and* stays in the
        # payload, which is all that a client of the stream folds into its own picture.
        self._events.append(
            NewEvent(
                code=Code.PROGRESS,
                message=f"{payload['progress']:.0%}",
                level="DEBUG",
                step_id=self._claim.step_id,
                item_index=payload.get("item_index"),
                payload=payload,
            )
        )
