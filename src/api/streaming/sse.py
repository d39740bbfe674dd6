"""One client's progress stream: history, then live events, then the end.

A job ends with the events [`error`], `job.finish`, `progress`, in that order; after that `progress`
the stream closes. A client that has all events of an ended job and connects again gets 204 (from
the route), which makes an EventSource stop. While the job waits, `queue` messages come in between
(`api.waiting.feed`).
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from uuid import UUID

from anyio.lowlevel import checkpoint
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.limits import Streams
from api.metrics import Metrics
from api.streaming.encoding import sse_message
from api.streaming.hub import Hub, Message, Subscriber
from api.streaming.previews import PreviewFeed, Previews
from api.waiting.feed import PAUSE_S, QueueFeed
from shared.db.events import Event
from shared.db.jobs import Job
from shared.errors import InfraUnavailable
from shared.events import Code

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
HEARTBEAT = b": still here\n\n"
# Sent at once, so that proxies and clients see a living stream. It says how soon to reconnect.
OPENING = b"retry: 1000\n\n"
PAGE = 200
# A proxy that compresses, or waits for a full buffer, would hold events back.
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}

ReadPage = Callable[[UUID, int, int], Awaitable[list[Event]]]


class ProgressStream:
    """Iterate `messages` once, to its end or until cancelled; it leaves the hub either way."""

    def __init__(
        self,
        job: Job,
        *,
        after: int,
        hub: Hub,
        read_page: ReadPage,
        metrics: Metrics,
        queue: QueueFeed,
        previews: Previews,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._job = job
        self._sent = after
        self._finish_seen = False
        self._ended = False
        self._hub = hub
        self._read_page = read_page
        self._metrics = metrics
        self._queue = queue
        self._previews = previews
        self._heartbeat_s = heartbeat_s

    async def messages(self) -> AsyncGenerator[bytes]:
        subscriber = None if self._job.ended else self._hub.join(self._job.id, self._job.event_seq)
        self._metrics.sse_clients.inc()
        try:
            yield OPENING
            until = self._job.event_seq if subscriber is None else subscriber.joined_at
            for part in (self._history(until), self._live(subscriber)):
                async with aclosing(part):
                    async for data in part:
                        yield data
        except InfraUnavailable as error:
            # A client whose stream ends before the job reconnects with Last-Event-ID.
            log.warning("stream ends early: %s", error)
        finally:
            self._metrics.sse_clients.dec()
            if subscriber is not None:
                self._hub.leave(subscriber)

    async def _history(self, until: int) -> AsyncGenerator[bytes]:
        """Events committed before we joined. Memory: one page, whatever the job's length."""
        while self._sent < until:
            page = await self._read_page(self._job.id, self._sent, PAGE)
            if not page:
                return
            for event in page:
                if event.seq <= until:
                    yield self._mark_sent(Message(event.seq, event.code, sse_message(event)))
                    # Sending from memory never suspends: give a disconnect its turn.
                    await checkpoint()
            self._sent = page[-1].seq if page[-1].seq <= until else until

    async def _live(self, subscriber: Subscriber | None) -> AsyncGenerator[bytes]:
        """What the hub pushes; nothing without a subscriber: then the job had ended before."""
        if subscriber is None:
            return
        feed = self._previews.join(self._job.id, subscriber.wake)
        try:
            async with aclosing(self._pushed(subscriber, feed)) as pushed:
                async for data in pushed:
                    yield data
        finally:
            self._previews.leave(feed)

    async def _pushed(self, subscriber: Subscriber, feed: PreviewFeed) -> AsyncGenerator[bytes]:
        silent_s = 0.0
        while not self._ended:
            pause_s = self._heartbeat_s - silent_s
            if self._queue.may_wait:
                pause_s = min(PAUSE_S, pause_s)
            messages = await subscriber.receive(pause_s)
            for message in messages:
                if message.seq > self._sent and not self._ended:
                    yield self._mark_sent(message)
            if subscriber.lagged or subscriber.closing:
                return
            if (preview := feed.take()) is not None and not self._ended:
                yield preview.message
                silent_s = 0.0
                continue
            silent_s = 0.0 if messages else silent_s + pause_s
            place = None if messages else await self._queue.message()
            if place is not None or silent_s >= self._heartbeat_s:
                yield place or HEARTBEAT
                silent_s = 0.0

    def _mark_sent(self, message: Message) -> bytes:
        self._sent = message.seq
        self._queue.see(message.code)
        self._ended = self._finish_seen and message.code == Code.PROGRESS
        self._finish_seen = self._finish_seen or message.code == Code.JOB_FINISH
        return message.data


class EventStreamResponse(StreamingResponse):
    """`text/event-stream` that closes its generator before it returns, not when memory is
    collected: what a client used is free as soon as the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncGenerator[bytes], streams: Streams, user: str) -> None:
        super().__init__(messages, headers=_HEADERS)
        self._messages = messages
        self._user = user
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `RateLimited`, before anything is sent."""
        with self._streams.place(self._user):
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._messages):
            await super().stream_response(send)
