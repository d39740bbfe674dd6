"""One database reader for all streams.

Theory of operation
-------------------
A thousand clients must not mean a thousand database readers. The hub knows which jobs are watched
and how far each has been read. Every 250 ms one statement reads all new events; the hub encodes
each event once and gives it to the subscribers of its job. The process that commits events says so
through the broker (`shared.dispatch.event_channel`), and the hub reads the jobs that changed at
once, at most every 20 ms. That it reads by cursor keeps each event from being lost or sent twice,
whatever becomes of those messages.

A subscriber first joins, which fixes the `seq` from which the hub serves it. Then it reads earlier
events from the database by itself (`api.streaming.sse`). So no event falls between the two: events
committed before the join are history, later ones are live.

Each subscriber has a bounded buffer. A client that does not read fills it, and the hub ends its
stream: the client comes back with `Last-Event-ID` and has lost nothing. The hub never waits for a
client.

A call that waits for its job's end (`wait_for_end`) has no buffer: all that wait for one job wait
for the same moment.

A job may be deleted as soon as it has ended, before its end has been read here. No event will come
any more, so the hub asks now and then which watched jobs are left, and ends the other watches.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import anyio

from api.streaming.encoding import sse_message
from shared.db.events import Event
from shared.errors import InfraUnavailable
from shared.events import Code

log = logging.getLogger(__name__)

POLL_S = 0.25
# Between two statements, however many commits are announced: a bound on what they cost PostgreSQL.
MIN_GAP_S = 0.02
# The pause while PostgreSQL is away: streams stay open, and reads are few.
AWAY_S = 1.0
# Between two questions which of the watched jobs are left.
CHECK_S = 15.0
# Per job and statement. A job with more events gets the next round at once.
PAGE = 200
BUFFER = 512

Read = Callable[[Mapping[UUID, int], int], Awaitable[list[Event]]]
Existing = Callable[[Collection[UUID]], Awaitable[Collection[UUID]]]


@dataclass(frozen=True, slots=True)
class Message:
    """An event on its way to a client, encoded once for all of them."""

    seq: int
    code: str
    data: bytes


@dataclass(eq=False, slots=True)
class Subscriber:
    """One client of one job. Live messages are those with `seq > joined_at`."""

    job_id: UUID
    joined_at: int
    lagged: bool = False
    closing: bool = False
    _buffer: list[Message] = field(default_factory=list)
    _ready: anyio.Event = field(default_factory=anyio.Event)

    def push(self, message: Message) -> bool:
        """Buffer a message. False when the buffer is full, once; later messages are dropped."""
        if self.lagged:
            return True
        self.lagged = len(self._buffer) >= BUFFER
        if not self.lagged:
            self._buffer.append(message)
        self._ready.set()
        return not self.lagged

    def wake(self) -> None:
        """End a `receive` that waits, though there is no message."""
        self._ready.set()

    def close(self) -> None:
        self.closing = True
        self._ready.set()

    async def receive(self, timeout_s: float) -> list[Message]:
        """The messages that arrive within `timeout_s`; empty when none does, or at the end."""
        with anyio.move_on_after(timeout_s):
            await self._ready.wait()
        messages, self._buffer = self._buffer, []
        if not (self.lagged or self.closing):
            self._ready = anyio.Event()
        return messages


@dataclass(eq=False, slots=True)
class _Watch:
    """A watched job: how far it has been read, its subscribers, and the calls that wait for its
    end. It begins before that end, so it sees it."""

    cursor: int
    subscribers: set[Subscriber] = field(default_factory=set)
    waiting: int = 0
    over: anyio.Event = field(default_factory=anyio.Event)  # nothing more is to be waited for

    def end(self) -> None:
        """The process ends, or the job is gone."""
        self.over.set()
        for subscriber in self.subscribers:
            subscriber.close()


class Hub:
    """Fans events out to subscribers; start `run` in a task group of the process."""

    def __init__(
        self,
        read: Read,
        existing: Existing,
        *,
        poll_s: float = POLL_S,
        on_lag: Callable[[], None] = lambda: None,
    ) -> None:
        """`existing` picks from these jobs those that have not been deleted."""
        self._read = read
        self._existing = existing
        self._check_at = 0.0
        self._on_lag = on_lag
        self._poll_s = poll_s
        self._watches: dict[UUID, _Watch] = {}
        self._changed: set[UUID] = set()  # watched jobs that have new events
        self._wakeup = anyio.Event()
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether the process ends."""
        return self._closing

    @property
    def clients(self) -> int:
        return sum(len(watch.subscribers) for watch in self._watches.values())

    def join(self, job_id: UUID, known_seq: int) -> Subscriber:
        """Watch a job that has not ended. `known_seq` is a `seq` that the caller has seen committed
        before the job's end."""
        watch = self._watches.setdefault(job_id, _Watch(known_seq))
        subscriber = Subscriber(job_id, watch.cursor)
        watch.subscribers.add(subscriber)
        if self._closing:
            subscriber.close()
        self.wake([job_id])
        return subscriber

    async def wait_for_end(self, job_id: UUID, known_seq: int) -> None:
        """Return when the job has ended or was deleted, or when the process ends. `known_seq` is as
        for `join`."""
        watch = self._watches.setdefault(job_id, _Watch(known_seq))
        watch.waiting += 1
        self.wake([job_id])
        try:
            if not self._closing:
                await watch.over.wait()
        finally:
            watch.waiting -= 1
            self._forget_unwatched(job_id, watch)

    def wake(self, job_ids: Collection[UUID]) -> None:
        """These jobs have new events. Jobs without a stream are ignored."""
        if changed := self._watches.keys() & job_ids:
            self._changed |= changed
            self._wakeup.set()

    def leave(self, subscriber: Subscriber) -> None:
        """Must be called once for every `join`. Never waits, so a cancelled task may call it."""
        watch = self._watches[subscriber.job_id]
        watch.subscribers.discard(subscriber)
        self._forget_unwatched(subscriber.job_id, watch)

    def close(self) -> None:
        """End every stream and every wait, later ones too: the process ends."""
        self._closing = True
        for watch in self._watches.values():
            watch.end()

    def _forget_unwatched(self, job_id: UUID, watch: _Watch) -> None:
        if not (watch.subscribers or watch.waiting):
            del self._watches[job_id]

    async def run(self) -> None:
        """Read events and push them to subscribers, until cancelled."""
        read_all_at = anyio.current_time()
        self._check_at = read_all_at + CHECK_S
        while True:
            if not self._watches:
                await self._wakeup.wait()
            everything = anyio.current_time() >= read_all_at
            if everything:
                read_all_at = anyio.current_time() + self._poll_s
            await anyio.sleep(await self._round(everything=everything))
            with anyio.move_on_after(max(0.0, read_all_at - anyio.current_time())):
                await self._wakeup.wait()

    async def _round(self, *, everything: bool) -> float:
        """Read and push; returns how long to wait before the next statement, at least."""
        self._wakeup = anyio.Event()
        changed, self._changed = self._changed, set()
        try:
            await self._read_new(None if everything else changed)
            if everything and anyio.current_time() >= self._check_at:
                await self._end_deleted()
                self._check_at = anyio.current_time() + CHECK_S
        except InfraUnavailable as error:
            log.warning("streams wait: %s", error)
            return AWAY_S
        except Exception:  # a bug in one round must not end every stream for good
            log.exception("streams: a round failed")
            return AWAY_S
        return min(MIN_GAP_S, self._poll_s)

    async def _read_new(self, job_ids: Collection[UUID] | None) -> None:
        """One statement for these watched jobs; None: for all of them."""
        watches = {
            job_id: watch
            for job_id, watch in self._watches.items()
            if job_ids is None or job_id in job_ids
        }
        events = await self._read({job: watch.cursor for job, watch in watches.items()}, PAGE)
        counts: Counter[UUID] = Counter()
        for event in events:
            counts[event.job_id] += 1
            # To the watch of this read. Its subscribers may all have left since, and others joined
            # at another cursor: they have a new watch, whose first page comes with the next read.
            self._publish(watches[event.job_id], event)
        self.wake([job_id for job_id, count in counts.items() if count >= PAGE])

    async def _end_deleted(self) -> None:
        """What watches a job that is gone has nothing more to hear."""
        watches = dict(self._watches)
        left = await self._existing(watches.keys())
        for job_id in watches.keys() - left:
            watches[job_id].end()

    def _publish(self, watch: _Watch, event: Event) -> None:
        watch.cursor = event.seq
        if event.code == Code.JOB_FINISH:
            watch.over.set()
        if not watch.subscribers:
            return
        message = Message(event.seq, event.code, sse_message(event))
        for subscriber in watch.subscribers:
            if not subscriber.push(message):
                self._on_lag()
