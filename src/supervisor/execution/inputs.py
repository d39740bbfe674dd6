"""Pictures of the step before, on their way to a runner that has no credential to fetch them.

The runner asks for one at a time, so at most one is in memory here, and it counts against the spool
like one on its way out. The row says which object it is and what its hash must be: an object that
is not there, or is another one, is not handed on. The store away is waited for, but not for long:
the step holds a slot meanwhile, and gives it back to wait in the queue.
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
from supervisor.execution.context import Try
from supervisor.execution.runner_protocol import Conversation
from supervisor.lifecycle.step import Kind
from supervisor.outcomes.classify import NoInput
from supervisor.processes.child import RunnerProcess

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 5.0


class Inputs:
    """The inputs of one try, for its runner."""

    def __init__(
        self, owned: Try, runner: RunnerProcess, conversation: Conversation, tasks: TaskGroup
    ) -> None:
        self._try = owned
        self._channel = runner.channel
        self._conversation = conversation
        self._tasks = tasks
        self._by_item = {artifact.item_index: artifact for artifact in owned.claim.inputs}

    def want(self, item_index: int) -> None:
        """The runner asks for this item. Never waits."""
        self._tasks.start_soon(self._hand_on, self._by_item[item_index])

    async def _hand_on(self, artifact: StoredArtifact) -> None:
        async with AsyncExitStack() as held:
            try:
                await self._answer(artifact, held)
            except OSError as error:
                # It is gone, and its exit is the news.
                log.info("could not hand on: %s", error, extra=self._try.journal.fields)

    async def _answer(self, artifact: StoredArtifact, held: AsyncExitStack) -> None:
        try:
            body = await self._in_hand(artifact, held)
        except NoInput as error:
            # The try ends here. The runner waits, and must be told that nothing will come.
            self._try.account.know(no_input=error)
            self._try.post(Kind.FAILURE)
            await self._channel.send(Cancel().model_dump())
            return
        message = Input(item_index=artifact.item_index, sha256=artifact.sha256)
        await self._channel.send(message.model_dump(), body)
        # Before anything else is waited for: the runner may ask for the next one by now.
        self._conversation.gave()

    async def _in_hand(self, artifact: StoredArtifact, held: AsyncExitStack) -> bytes:
        """Its bytes, counted in the spool until `held` is closed."""
        with self._try.account.waiting_for_store(), anyio.move_on_after(PATIENCE_S):
            # Room first, which is the store's to make as well: of pictures that it does not take.
            await held.enter_async_context(self._try.host.spool.holding(artifact.size_bytes))
            return _checked(artifact, await self._fetched(artifact))
        raise _no_input(artifact, f"the object store was away for {PATIENCE_S:g} s")

    async def _fetched(self, artifact: StoredArtifact) -> bytes | None:
        # One more than it had: whatever lies there now, it is not read whole.
        limit, pause_s = artifact.size_bytes + 1, _RETRY_FIRST_S
        while True:
            try:
                return await self._try.host.objects.get(artifact.s3_key, at_most_bytes=limit)
            except InfraUnavailable as error:
                log.warning("input waits: %s", error.message, extra=self._try.journal.fields)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MOST_S)


def _checked(artifact: StoredArtifact, body: bytes | None) -> bytes:
    if body is None:
        raise _no_input(artifact, "the object is gone from the store")
    found = hashlib.sha256(body).hexdigest()
    if found != artifact.sha256:
        raise _no_input(artifact, "the store holds another object by its name", found_sha256=found)
    return body


def _no_input(artifact: StoredArtifact, problem: str, **more: Any) -> NoInput:
    return NoInput(
        f"the input of item {artifact.item_index}: {problem}",
        item_index=artifact.item_index,
        s3_key=artifact.s3_key,
        sha256=artifact.sha256,
        **more,
    )
