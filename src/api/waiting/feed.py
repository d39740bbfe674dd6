"""What a stream says while its job waits: `queue` messages, without an id.

They are no events of the job: nothing is stored, `Last-Event-ID` knows nothing of them, and a
client that does not know them loses nothing.
"""

from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from fastapi.sse import format_sse_event

from api.schemas.responses import QueueMessage, QueueOut
from shared.db.waiting import LineStep
from shared.errors import InfraUnavailable
from shared.events import Code

NAME = "queue"
# Between two messages of a stream, and before the first: of a job that starts at once there is
# nothing to say.
PAUSE_S = 2.0
# Events after which a step of the job may wait (again).
_MAY_WAIT = {Code.RETRY, Code.LEASE_EXPIRED, Code.STEP_FINISH}


class Places(Protocol):
    """A `QueueReader`, as far as a stream needs it."""

    async def of_job(self, job_id: UUID) -> QueueOut | None: ...

    async def step_of(self, job_id: UUID) -> LineStep | None: ...

    async def of_step(self, step: LineStep) -> QueueOut: ...


class QueueFeed:
    """The messages of one stream."""

    def __init__(self, reader: Places, job_id: UUID) -> None:
        self._reader = reader
        self._job_id = job_id
        self._step: LineStep | None = None
        self._sent: QueueOut | None = None
        self.may_wait = True

    def see(self, code: str) -> None:
        """The stream has sent an event with this code."""
        if code in _MAY_WAIT or code == Code.STEP_CLAIMED:
            self.may_wait = code in _MAY_WAIT
            self._step = None

    async def message(self) -> bytes | None:
        """The next message, if the job waits and its place has changed."""
        if not self.may_wait:
            return None
        try:
            queue = await self._look()
        except InfraUnavailable:  # the stream waits for PostgreSQL as well, and the hub says so
            return None
        if queue is None or queue == self._sent:
            return None
        self._sent = queue
        return queue_message(self._job_id, queue, datetime.now(UTC))

    async def _look(self) -> QueueOut | None:
        if (queue := await self._reader.of_job(self._job_id)) is not None:
            return queue
        self._step = self._step or await self._reader.step_of(self._job_id)
        if self._step is None:
            self.may_wait = False
            return None
        return await self._reader.of_step(self._step)


def queue_message(job_id: UUID, queue: QueueOut, now: datetime) -> bytes:
    """One SSE message; its data has the fields of an event, without `seq`."""
    span = queue.starts_in_s
    when = "" if span is None else f", starts in {span.low} to {span.high} s"
    data = QueueMessage(
        ts=now,
        level="INFO",
        code="queue",
        message=f"position {queue.position}{'' if queue.exact else ' or more'}{when}",
        job_id=str(job_id),
        step_id=None,
        item_index=None,
        payload=queue,
    )
    return format_sse_event(data_str=data.model_dump_json(), event=NAME)
