"""The newest preview of each job that a client looks at. Nothing else is kept, and nothing stored.

They are messages of the stream without an id: `Last-Event-ID` knows nothing of them, and a client
that does not know them loses nothing.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from fastapi.sse import format_sse_event

from shared.dispatch.preview_channel import ShownPreview

NAME = "preview"


class Subscription(Protocol):
    """A `PreviewSubscription`, as far as this needs it."""

    def watch(self, job_id: UUID) -> None: ...

    def leave(self, job_id: UUID) -> None: ...


@dataclass(frozen=True, slots=True)
class NewestPreview:
    """A preview, and its SSE message, encoded once for all streams."""

    preview: ShownPreview
    message: bytes


@dataclass(eq=False, slots=True)
class PreviewFeed:
    """The previews of one stream. `wake` is called when there is one to take."""

    job_id: UUID
    wake: Callable[[], None]
    _next: NewestPreview | None = None

    def offer(self, newest: NewestPreview) -> None:
        self._next = newest
        self.wake()

    def take(self) -> NewestPreview | None:
        """The newest one, once."""
        newest, self._next = self._next, None
        return newest


@dataclass(slots=True)
class _Watched:
    newest: NewestPreview | None = None
    feeds: set[PreviewFeed] = field(default_factory=set)


class Previews:
    """Those of one api process."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None  # None: previews are off
        self._jobs: dict[UUID, _Watched] = {}

    def join(self, job_id: UUID, wake: Callable[[], None]) -> PreviewFeed:
        """Look at a job; who comes late gets the newest one at once. `leave` it again."""
        feed = PreviewFeed(job_id, wake)
        if self.subscription is not None:
            watched = self._jobs.setdefault(job_id, _Watched())
            watched.feeds.add(feed)
            self.subscription.watch(job_id)
            if watched.newest is not None:
                feed.offer(watched.newest)
        return feed

    def leave(self, feed: PreviewFeed) -> None:
        if (watched := self._jobs.get(feed.job_id)) is None:
            return
        watched.feeds.discard(feed)
        if not watched.feeds and self.subscription is not None:
            del self._jobs[feed.job_id]
            self.subscription.leave(feed.job_id)

    def show(self, preview: ShownPreview) -> None:
        """Give it to every stream of its job."""
        if (watched := self._jobs.get(preview.job_id)) is None:
            return
        watched.newest = NewestPreview(preview, preview_message(preview))
        for feed in watched.feeds:
            feed.offer(watched.newest)


def preview_message(preview: ShownPreview) -> bytes:
    """One SSE message; `image` can be shown as it is."""
    data = {
        **preview.model_dump(mode="json", exclude={"jpeg"}),
        "image": f"data:image/jpeg;base64,{preview.jpeg}",
    }
    return format_sse_event(data_str=json.dumps(data, separators=(",", ":")), event=NAME)
