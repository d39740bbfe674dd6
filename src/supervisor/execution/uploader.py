"""Brings finished images to the store, and then writes their rows.

Uploads of one step run beside its sampling, two at a time, and outlive the runner: they hold no
GPU. An object is written and checked first, its row after it, so a row always names an object that
is there. When another owner stored the item first, the loser deletes its own object.
"""

import logging
import time
from typing import Any

import anyio
from anyio.abc import TaskGroup

from shared.artifact_store import object_key
from shared.errors import InfraUnavailable
from shared.events import Code, NewEvent
from shared.protocol.messages import CONTENT_TYPES, Artifact
from shared.retry import backoff
from shared.step_store import Stale, StoredArtifact
from supervisor.execution.context import Execution
from supervisor.execution.picture_store import RETRY_MOST_S
from supervisor.lifecycle.step import EventKind
from supervisor.recording.event_recorder import log_events

log = logging.getLogger(__name__)

MAX_PARALLEL = 2
RETRY_FIRST_S = 0.5


class Uploader:
    """The uploads of one execution."""

    def __init__(self, execution: Execution, tasks: TaskGroup) -> None:
        self._execution = execution
        self._tasks = tasks
        self._limiter = anyio.CapacityLimiter(MAX_PARALLEL)
        self._open = 0
        self._idle = anyio.Event()
        self._started = anyio.Event()  # of the latest upload; the runner's frames come one by one
        self._backpressure_stopped = False

    async def add(self, artifact: Artifact, body: bytes) -> None:
        """Take an image. Returns once the byte budget has room, or after `stop_backpressure`."""
        self._open += 1
        self._started = started = anyio.Event()
        self._tasks.start_soon(self._upload, artifact, body, time.time_ns() // 1_000_000, started)
        if not self._backpressure_stopped:
            with self._execution.evidence.waiting_for_store():
                await started.wait()

    def stop_backpressure(self) -> None:
        """The runner is gone: there is nothing to slow down, and its last frames must be read.

        They are what a socket's buffer holds, so taking them without room is bounded: while they
        wait for room the budget is full, and no runner makes more.
        """
        self._backpressure_stopped = True
        self._started.set()

    async def wait_finished(self) -> None:
        """Wait until every image that was taken has its row."""
        while self._open:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _upload(
        self, artifact: Artifact, body: bytes, finished_ms: int, started: anyio.Event
    ) -> None:
        key = object_key(self._execution.claim, artifact, finished_ms=finished_ms)
        pauses = backoff(first_s=RETRY_FIRST_S, most_s=RETRY_MOST_S)
        async with self._execution.worker.byte_budget.reserve(len(body)):
            started.set()
            async with self._limiter:
                try:
                    await self._execution.retry(
                        lambda: self._store(artifact, body, key), pauses, "upload waits"
                    )
                except Stale:
                    await self._delete_object(key)
                    self._execution.post(EventKind.LEASE_GONE)
        self._open -= 1
        self._idle.set()

    async def _store(self, artifact: Artifact, body: bytes, key: str) -> None:
        if not self._execution.fence.holds:
            # Not `Stale`: the lease may yet be renewed. But nothing is written past the fence.
            raise InfraUnavailable("the lease could not be renewed")
        claim, worker = self._execution.claim, self._execution.worker
        content_type = CONTENT_TYPES[artifact.format]
        await worker.objects.put(key, body, content_type=content_type, sha256=artifact.sha256)
        facts: dict[str, Any] = {
            "format": artifact.format,
            "width": artifact.width,
            "height": artifact.height,
            "seed": artifact.seed,
            "s3_key": key,
            "sha256": artifact.sha256,
        }
        event = NewEvent(
            code=Code.ARTIFACT_WRITTEN,
            message=f"item {artifact.item_index} stored",
            step_id=claim.step_id,
            item_index=artifact.item_index,
            payload={"step": claim.name, **facts},
        )
        row = StoredArtifact(item_index=artifact.item_index, size_bytes=len(body), **facts)
        if await worker.store.add_artifact(claim, row, event):
            log_events([event], self._execution.recorder.fields)
        else:
            await self._delete_object(key)
        self._execution.progress.mark_stored(artifact.item_index)

    async def _delete_object(self, key: str) -> None:
        """Delete our object, which no row names. `prune` finds it if the store is away now."""
        try:
            await self._execution.worker.objects.delete(key)
        except InfraUnavailable as error:
            fields = self._execution.recorder.fields
            log.warning("could not delete %s: %s", key, error, extra=fields)
