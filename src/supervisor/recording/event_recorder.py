"""What a step has to say, written down in order without ever holding the step up.

Facts are queued here and one task writes them, a transaction per batch. The kill chain must go on
while the database is away, so nothing waits for this queue except the two moments that have to
(`commit running` before GO, and the verdict). Progress is coalesced to about 2 Hz, a runner's log
lines are cut off at 20 a second and counted, and the queue itself is bounded by both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from shared.errors import InfraUnavailable
from shared.events import Code, NewEvent
from shared.progress import StepProgress
from shared.states import StepState
from shared.step_store import Claim, Stale, StepStore
from shared.telemetry.traceparent import parse

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
LOGS_PER_S = 20
_RETRY_S = 1.0


class EventRecorder:
    """Events and state notes of one claim. `run` writes until `stop`; the rest is `take`n."""

    def __init__(self, claim: Claim, store: StepStore, *, stale: Callable[[], None]) -> None:
        self._claim = claim
        self._store = store
        self._stale = stale
        self._events: list[NewEvent] = []
        self._state: StepState | None = None
        self._progress: dict[str, Any] | None = None
        self._shown = claim.progress
        self._shown_at = -math.inf
        self._stages: set[str] = set()
        self._logged: tuple[int, int] = (0, 0)  # second, lines in it
        self._dropped = 0
        self._writing = anyio.Lock()
        self._wake = anyio.Event()
        self._stopped = False

    def record(
        self,
        code: Code,
        message: str,
        *,
        level: str = "INFO",
        item_index: int | None = None,
        **payload: Any,
    ) -> NewEvent:
        """Queue a fact, log it, and return it."""
        event = self.make_event(code, message, level=level, item_index=item_index, **payload)
        self._events.append(event)
        self._wake.set()
        self.log_events(event)
        return event

    def make_event(
        self,
        code: Code,
        message: str,
        *,
        level: str = "INFO",
        item_index: int | None = None,
        **payload: Any,
    ) -> NewEvent:
        """Make a fact of this step, for whoever writes it in a transaction of its own.

        It is in no log before whoever wrote it says so with `told`.
        """
        return NewEvent(
            code=code,
            message=message,
            level=level,
            step_id=self._claim.step_id,
            item_index=item_index,
            payload=payload or None,
        )

    def log_events(self, *events: NewEvent) -> None:
        """Log facts of this step: the log says what the job's own record says, and when."""
        for event in events:
            about = {} if event.item_index is None else {"item_index": event.item_index}
            log.log(
                logging.getLevelNamesMapping()[event.level],
                event.message,
                extra={
                    "code": str(event.code),
                    "payload": dict(event.payload or {}),
                    **about,
                    **self.fields,
                },
            )

    @property
    def fields(self) -> dict[str, str]:
        """What ties a log line to its job, and to the request that made it."""
        claim = self._claim
        found = {
            "job_id": str(claim.job_id),
            "step_id": str(claim.step_id),
            "correlation_id": claim.correlation_id,
        }
        if claim.client_request_id is not None:
            found["client_request_id"] = claim.client_request_id
        if (trace := parse(claim.traceparent)) is not None:
            found["trace_id"] = trace.trace_id
        return found

    def record_state(self, state: StepState) -> None:
        """Queue a note of where the step is now; only the latest one counts."""
        self._state = state
        self._wake.set()

    def record_runner_log(
        self, level: str, code: str, message: str, item_index: int | None, payload: Any
    ) -> None:
        """Queue a runner's own line, or count it when it has said too much this second."""
        second = int(anyio.current_time())
        if self._logged[0] != second:
            self._record_dropped()
            self._logged = (second, 0)
        self._logged = (second, self._logged[1] + 1)
        if self._logged[1] > LOGS_PER_S:
            self._dropped += 1
            return
        self.record(
            Code.RUNNER_LOG,
            message,
            level=level,
            item_index=item_index,
            runner_code=code,
            data=payload,
        )

    def _record_dropped(self) -> None:
        """Sum up a second that is over. More often, and the summary would be the flood."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.record(
                Code.LOGS_DROPPED,
                f"{dropped} log lines of the runner were dropped (over {LOGS_PER_S} a second)",
                level="WARNING",
                dropped=dropped,
            )

    def record_progress(self, progress: StepProgress, **position: Any) -> None:
        """Queue how far the step is, as its job's progress. What was shown never goes back."""
        claim = self._claim
        total = (claim.position + progress.total) / claim.chain_length
        self._shown = max(self._shown, round(total, 4))
        self._begin_stage(position.get("stage"))
        if self._progress is None:
            self._wake.set()
        self._progress = {
            "progress": self._shown,
            **position,
            "count": claim.count,
            "completed": len(progress.done) if claim.position + 1 == claim.chain_length else 0,
        }

    def _begin_stage(self, stage: str | None) -> None:
        """The first word of a stage is written at once, or nobody could tell when it began."""
        if stage is None or stage in self._stages:
            return
        self._stages.add(stage)
        if self._progress is not None:
            self._append_progress()
        self._shown_at = -math.inf
        self._wake.set()

    async def run(self) -> None:
        """Write what is queued, until `take`. A stale claim is reported once, then it is silent."""
        while not self._stopped:
            with anyio.move_on_after(self._until_progress_s()):
                await self._wake.wait()
            self._wake = anyio.Event()
            await self.flush()

    def _until_progress_s(self) -> float:
        """Seconds until the progress that waits may be written."""
        if self._progress is None:
            return math.inf
        return max(0.0, self._shown_at + PROGRESS_EVERY_S - anyio.current_time())

    async def flush(self) -> None:
        """Write everything that is queued by now; keep it and return when the database is away."""
        async with self._writing:
            self._flush_progress(force=False)
            state, events = self._state, self._events
            if state is None and not events:
                return
            self._state, self._events = None, []
            if not await self._attempt(lambda: self._store.record(self._claim, state, events)):
                self._state, self._events = self._state or state, [*events, *self._events]
                await anyio.sleep(_RETRY_S)
                self._wake.set()

    async def _attempt(self, write: Callable[[], Awaitable[None]]) -> bool:
        try:
            await write()
        except Stale:
            self._stopped = True
            self._stale()
        except InfraUnavailable as error:
            log.warning("events wait: %s", error.message, extra=self.fields)
            return False
        return True

    def _flush_progress(self, *, force: bool) -> None:
        now = anyio.current_time()
        if force or int(now) != self._logged[0]:
            self._record_dropped()
        if self._progress is not None and (force or not self._until_progress_s()):
            self._append_progress()
            self._shown_at = now

    def _append_progress(self) -> None:
        assert self._progress is not None
        payload, self._progress = self._progress, None
        # Made here and not by `event`: the item is named in the column *and* stays in the payload,
        # which is all that a client of the stream folds into its own picture.
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

    async def drain(self) -> list[NewEvent]:
        """Stop writing and hand over what is left, for the verdict's own transaction."""
        self._stopped = True
        self._wake.set()
        async with self._writing:
            self._flush_progress(force=True)
            events, self._events, self._state = self._events, [], None
            return events
