"""Previews on their way from a worker to the api processes that have a stream of the job open.

Each job has a channel of its own on the broker. An api process subscribes to it for as long as a
client looks; a worker asks the broker which channels have a subscriber, and has previews made for
those alone. Nothing is stored: a message without a subscriber is gone.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

import anyio
from pydantic import BaseModel, ConfigDict, Field

from shared.dispatch.event_channel import TIMEOUT_S, open_client, pause, translated_errors
from shared.errors import InfraUnavailable
from shared.protocol.messages import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE, Preview

log = logging.getLogger(__name__)

_PREFIX = "dreamforge.preview:"
# How long a new subscription may wait for its turn: one connection serves all jobs of a process.
TURN_S = 0.2
# Nobody is asked about so soon after the broker did not answer.
AWAY_S = 5.0


class ShownPreview(BaseModel):
    """A preview as it is on the channel; `jpeg` is base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: UUID
    item_index: int = Field(ge=0)
    step: int = Field(ge=0)
    steps: int = Field(ge=1)
    width: int = Field(ge=1, le=MAX_PREVIEW_SIDE)
    height: int = Field(ge=1, le=MAX_PREVIEW_SIDE)
    jpeg: str = Field(max_length=MAX_PREVIEW_BYTES * 4 // 3 + 4)


class PreviewPublisher:
    """The worker's side; belongs to one event loop. Start `run` in a task group of it."""

    def __init__(self, redis_url: str) -> None:
        self._redis = open_client(redis_url)
        self._newest: dict[UUID, ShownPreview] = {}
        self._wakeup = anyio.Event()
        self._away_until = 0.0

    async def watched(self, job_ids: Collection[UUID]) -> set[UUID]:
        """Those jobs whose channel has a subscriber. None while the broker is away."""
        if not job_ids or anyio.current_time() < self._away_until:
            return set()
        channels: dict[bytes | str, UUID] = {_channel(each).encode(): each for each in job_ids}
        try:
            with translated_errors(), anyio.fail_after(TIMEOUT_S):
                counts = await self._redis.pubsub_numsub(*channels)
        except InfraUnavailable as error:
            log.info("previews wait: %s", error.message)
            self._away_until = anyio.current_time() + AWAY_S
            return set()
        return {channels[channel] for channel, count in counts if count}

    def publish(self, job_id: UUID, preview: Preview, jpeg: bytes) -> None:
        """Send it to whoever looks; an older one of the job that has not been sent yet is not."""
        self._newest[job_id] = ShownPreview(
            job_id=job_id,
            **preview.model_dump(exclude={"type"}),
            jpeg=base64.b64encode(jpeg).decode(),
        )
        self._wakeup.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wakeup.wait()
            self._wakeup = anyio.Event()
            newest, self._newest = self._newest, {}
            try:
                with translated_errors(), anyio.fail_after(TIMEOUT_S):
                    for job_id, shown in newest.items():
                        await self._redis.publish(f"{_PREFIX}{job_id}", shown.model_dump_json())
            except InfraUnavailable as error:
                log.info("a preview is lost: %s", error.message)
            except Exception:  # a bug must not end the other tasks of the process
                log.exception("a preview is lost")
                await anyio.sleep(AWAY_S)

    async def close(self) -> None:
        await self._redis.aclose()


class PreviewSubscription:
    """The api's side; start `run` in a task group. `on_preview` gets what is published."""

    def __init__(self, redis_url: str, on_preview: Callable[[ShownPreview], None]) -> None:
        self._redis = open_client(redis_url)
        self._on_preview = on_preview
        self._wanted: set[UUID] = set()
        self._wakeup = anyio.Event()
        self._failures = 0

    def watch(self, job_id: UUID) -> None:
        """Hear of this job from about now on."""
        self._wanted.add(job_id)
        self._wakeup.set()

    def leave(self, job_id: UUID) -> None:
        self._wanted.discard(job_id)

    async def run(self) -> None:
        """Listen until cancelled, again and again where the broker goes away."""
        while True:
            if not self._wanted:
                self._wakeup = anyio.Event()
                await self._wakeup.wait()
            try:
                with translated_errors():
                    await self._listen()
            except Exception as error:  # a bug too: it must not end the other tasks of the process
                self._failures += 1
                await pause("there are no previews", self._failures, error)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _listen(self) -> None:
        """Until no job is wanted any more."""
        heard: set[UUID] = set()
        async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
            while self._wanted:
                if new := self._wanted - heard:
                    await channel.subscribe(*map(_channel, new))
                if old := heard - self._wanted:
                    await channel.unsubscribe(*map(_channel, old))
                heard = set(self._wanted)
                message = await channel.get_message(timeout=TURN_S)
                self._failures = 0
                if message is not None:
                    self._hear(message["data"])

    def _hear(self, data: Any) -> None:
        try:
            shown = ShownPreview.model_validate_json(data)
            base64.b64decode(shown.jpeg, validate=True)
        except ValueError:  # not only of the model: text beyond ASCII is no base64 either
            log.warning("broker: a message on %s* that is no preview", _PREFIX)
        else:
            self._on_preview(shown)


def _channel(job_id: UUID) -> str:
    return f"{_PREFIX}{job_id}"
