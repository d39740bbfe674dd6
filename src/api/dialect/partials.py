"""Partial pictures of a stream: previews of its job, as many as were asked for.

They are spread over the sampling of each picture. Fewer come where it takes few steps, or where the
job makes no previews.
"""

import json
import time
from collections import Counter
from types import TracebackType
from typing import Self
from uuid import UUID

import anyio
from fastapi.sse import format_sse_event

from api.dialect.answers import Completed, PartialEvent
from api.dialect.request import GenerateImages
from api.streaming.previews import PreviewFeed, Previews
from shared.dispatch.preview_channel import ShownPreview


class Partials:
    """Those of one stream, `most` of each picture. While it is entered, the job is looked at."""

    def __init__(self, previews: Previews, job_id: UUID, most: int) -> None:
        self._previews = previews
        self._job_id = job_id
        self._most = most
        self._sent: Counter[int] = Counter()  # by item
        self._feed: PreviewFeed | None = None
        self.wakeup = anyio.Event()  # there may be one to take

    def __enter__(self) -> Self:
        if self._most:
            self._feed = self._previews.join(self._job_id, lambda: self.wakeup.set())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._feed is not None:
            self._previews.leave(self._feed)

    def take(self) -> tuple[int, ShownPreview] | None:
        """The next one with its number, if its time has come."""
        self.wakeup = anyio.Event()
        newest = None if self._feed is None else self._feed.take()
        if newest is None:
            return None
        preview = newest.preview
        number = self._sent[preview.item_index]
        reached = preview.step / preview.steps * (self._most + 1)
        if number >= self._most or reached < number + 1:
            return None
        self._sent[preview.item_index] += 1
        return number, preview


def partial_event(
    number: int, preview: ShownPreview, body: GenerateImages, completed: Completed
) -> bytes:
    """The event of a partial picture: a small JPEG, whatever the pictures will be."""
    event = PartialEvent(
        type=partial_of(completed),
        b64_json=preview.jpeg,
        created_at=int(time.time()),
        size=f"{preview.width}x{preview.height}",
        quality=body.level,
        partial_image_index=number,
        item_index=preview.item_index,
    )
    return format_sse_event(data_str=json.dumps(event.model_dump()), event=event.type)


def partial_of(completed: Completed) -> str:
    """The name of an event with a partial picture, by that of one with a whole one."""
    return completed.replace("completed", "partial_image")
