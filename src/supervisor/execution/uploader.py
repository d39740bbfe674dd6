"""Finished images on their way to the store, and to their rows.

Uploads of one step run beside its sampling, two at a time, and outlive the runner: they hold no
GPU. An object is written and checked first, its row after it, so a row always names an object that
is there. The loser of a race (another owner stored the item) deletes its own object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from shared.artifact_store import ArtifactStore, object_key
from shared.errors import InfraUnavailable
from shared.events import Code
from shared.protocol.messages import Artifact
from shared.step_store import Claim, Stale, StepStore, StoredArtifact
from supervisor.execution.byte_budget import ByteBudget
from supervisor.execution.lease import Fence
from supervisor.outcomes.evidence import EvidenceRecorder
from supervisor.recording.event_recorder import EventRecorder

log = logging.getLogger(__name__)

AT_ONCE = 2
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 10.0
_CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg"}


class Uploader:
    """The uploads of one claim. `stored` is called for each item whose row is committed."""

    def __init__(
        self,
        claim: Claim,
        *,
        store: StepStore,
        objects: ArtifactStore,
        byte_budget: ByteBudget,
        fence: Fence,
        recorder: EventRecorder,
        evidence: EvidenceRecorder,
        tasks: TaskGroup,
        stored: Callable[[int], None],
        stale: Callable[[], None],
    ) -> None:
        self._claim = claim
        self._store = store
        self._objects = objects
        self._byte_budget = byte_budget
        self._fence = fence
        self._recorder = recorder
        self._evidence = evidence
        self._tasks = tasks
        self._stored = stored
        self._stale = stale
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._open = 0
        self._idle = anyio.Event()
        self._waiting: set[anyio.Event] = set()
        self._backpressure_stopped = False

    async def add(self, artifact: Artifact, body: bytes) -> None:
        """Take an image. Returns once there is room for it in the budget, or unhindered."""
        self._open += 1
        started = anyio.Event()
        self._tasks.start_soon(self._upload, artifact, body, time.time_ns() // 1_000_000, started)
        if not self._backpressure_stopped:
            self._waiting.add(started)
            with self._evidence.waiting_for_store():
                await started.wait()
            self._waiting.discard(started)

    def stop_backpressure(self) -> None:
        """The runner is gone: there is nobody left to slow down, only its last frames to hear.

        They are what a socket's buffer holds, so taking them without room is bounded: while they
        wait for it the budget is full, and nobody makes more.
        """
        self._backpressure_stopped = True
        for started in self._waiting:
            started.set()

    async def wait_finished(self) -> None:
        """Wait until every image that was taken has its row."""
        while self._open:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _upload(
        self, artifact: Artifact, body: bytes, finished_ms: int, started: anyio.Event
    ) -> None:
        async with self._byte_budget.reserve(len(body)):
            started.set()
            async with self._slots:
                await self._store_with_retries(artifact, body, finished_ms)
        self._open -= 1
        self._idle.set()

    async def _store_with_retries(self, artifact: Artifact, body: bytes, finished_ms: int) -> None:
        pause_s = _RETRY_FIRST_S
        key = object_key(self._claim, artifact, finished_ms=finished_ms)
        while True:
            try:
                await self._store_once(artifact, body, key)
            except Stale:
                await self._delete_object(key)
                self._stale()
                return
            except InfraUnavailable as error:
                log.warning("upload waits: %s", error.message, extra=self._recorder.fields)
            else:
                return
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MOST_S)

    async def _store_once(self, artifact: Artifact, body: bytes, key: str) -> None:
        if not self._fence.holds:
            # Not `Stale`: the lease may yet be renewed. But nothing is written past the fence.
            raise InfraUnavailable("the lease could not be renewed")
        content_type = _CONTENT_TYPES[artifact.format]
        await self._objects.put(key, body, content_type=content_type, sha256=artifact.sha256)
        row = StoredArtifact(
            item_index=artifact.item_index,
            format=artifact.format,
            width=artifact.width,
            height=artifact.height,
            seed=artifact.seed,
            s3_key=key,
            sha256=artifact.sha256,
            size_bytes=len(body),
        )
        event = self._recorder.make_event(
            Code.ARTIFACT_WRITTEN,
            f"item {artifact.item_index} stored",
            item_index=artifact.item_index,
            step=self._claim.name,
            format=artifact.format,
            width=artifact.width,
            height=artifact.height,
            seed=artifact.seed,
            s3_key=key,
            sha256=artifact.sha256,
        )
        if await self._store.add_artifact(self._claim, row, event):
            self._recorder.log_events(event)
        else:
            await self._delete_object(key)
        self._stored(artifact.item_index)

    async def _delete_object(self, key: str) -> None:
        """Delete our object, which no row names. `prune` finds it if the store is away now."""
        try:
            await self._objects.delete(key)
        except InfraUnavailable as error:
            log.warning("could not delete %s: %s", key, error.message, extra=self._recorder.fields)
