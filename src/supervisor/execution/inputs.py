"""Pictures of the step before, on their way to a runner that has no credential to fetch them.

The runner asks for one at a time, so at most one is in memory here, and it counts against the
budget like one on its way out. The row says which object it is and what its hash must be: an object
that is not there, or is another one, is not sent. The store is waited for, but not for long: the
step holds a slot meanwhile, and gives it back to wait in the queue.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import AsyncExitStack
from typing import Any

import anyio
from anyio.abc import TaskGroup

from shared.errors import InfraUnavailable
from shared.protocol.messages import Cancel, Input
from shared.step_store import StoredArtifact
from supervisor.execution.context import Execution
from supervisor.execution.runner_protocol import RunnerProtocol
from supervisor.lifecycle.step import EventKind
from supervisor.outcomes.classify import InputUnavailable
from supervisor.processes.child import RunnerProcess

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 60.0
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 5.0


class InputSender:
    """The inputs of one try, for its runner."""

    def __init__(
        self,
        execution: Execution,
        runner: RunnerProcess,
        protocol: RunnerProtocol,
        tasks: TaskGroup,
    ) -> None:
        self._execution = execution
        self._channel = runner.channel
        self._protocol = protocol
        self._tasks = tasks
        self._by_item = {artifact.item_index: artifact for artifact in execution.claim.inputs}

    def request(self, item_index: int) -> None:
        """The runner asks for this item. Never waits."""
        self._tasks.start_soon(self._send, self._by_item[item_index])

    async def _send(self, artifact: StoredArtifact) -> None:
        async with AsyncExitStack() as held:
            try:
                await self._send_or_fail(artifact, held)
            except OSError as error:
                # It is gone, and its exit is the news.
                log.info("could not hand on: %s", error, extra=self._execution.recorder.fields)

    async def _send_or_fail(self, artifact: StoredArtifact, held: AsyncExitStack) -> None:
        try:
            body = await self._fetch(artifact, held)
        except InputUnavailable as error:
            # The try ends here. The runner waits, and must be told that nothing will come.
            self._execution.evidence.know(input_unavailable=error)
            self._execution.post(EventKind.FAILURE)
            await self._channel.send(Cancel().model_dump())
            return
        message = Input(item_index=artifact.item_index, sha256=artifact.sha256)
        await self._channel.send(message.model_dump(), body)
        # Before anything else is waited for: the runner may ask for the next one by now.
        self._protocol.input_sent()

    async def _fetch(self, artifact: StoredArtifact, held: AsyncExitStack) -> bytes:
        """Its bytes, counted in the budget until `held` is closed."""
        with self._execution.evidence.waiting_for_store(), anyio.move_on_after(FETCH_TIMEOUT_S):
            # Room first, which is the store's to make as well: of pictures that it does not take.
            await held.enter_async_context(
                self._execution.worker.byte_budget.reserve(artifact.size_bytes)
            )
            return _check_hash(artifact, await self._get_with_retries(artifact))
        raise _unavailable(artifact, f"the object store was away for {FETCH_TIMEOUT_S:g} s")

    async def _get_with_retries(self, artifact: StoredArtifact) -> bytes | None:
        # One more than it had: whatever lies there now, it is not read whole.
        limit, pause_s = artifact.size_bytes + 1, _RETRY_FIRST_S
        while True:
            try:
                return await self._execution.worker.objects.get(
                    artifact.s3_key, at_most_bytes=limit
                )
            except InfraUnavailable as error:
                log.warning("input waits: %s", error.message, extra=self._execution.recorder.fields)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MOST_S)


def _check_hash(artifact: StoredArtifact, body: bytes | None) -> bytes:
    if body is None:
        raise _unavailable(artifact, "the object is gone from the store")
    found = hashlib.sha256(body).hexdigest()
    if found != artifact.sha256:
        raise _unavailable(
            artifact, "the store holds another object by its name", found_sha256=found
        )
    return body


def _unavailable(artifact: StoredArtifact, problem: str, **more: Any) -> InputUnavailable:
    return InputUnavailable(
        f"the input of item {artifact.item_index}: {problem}",
        item_index=artifact.item_index,
        s3_key=artifact.s3_key,
        sha256=artifact.sha256,
        **more,
    )
