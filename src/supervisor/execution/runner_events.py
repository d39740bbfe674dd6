"""Turns what a runner says, and its end, into facts for the state machine.

Two tasks per runner. `frames` reads until the stream ends; `exit` waits for the process. An end of
the stream is what a death looks like, so it waits for the death, which says more; and a death waits
a moment for the last frames, which may hold the result.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from shared.protocol.messages import (
    Artifact,
    Failure,
    FromRunner,
    Log,
    Progress,
    Ready,
    Result,
    Want,
)
from supervisor.execution.context import Try
from supervisor.execution.inputs import Inputs
from supervisor.execution.runner_protocol import Conversation
from supervisor.execution.uploader import Uploads
from supervisor.lifecycle.step import Kind
from supervisor.processes.channel import FrameError, Truncated
from supervisor.processes.child import LAST_FRAMES_S, RunnerProcess
from supervisor.recording.progress import ProgressNotes

log = logging.getLogger(__name__)


class Listener:
    """The ears of one try. `exit_told` is set when the end of the runner has been reported."""

    def __init__(
        self,
        owned: Try,
        runner: RunnerProcess,
        conversation: Conversation,
        *,
        progress: ProgressNotes,
        uploads: Uploads,
        inputs: Inputs,
    ) -> None:
        self._try = owned
        self._runner = runner
        self._conversation = conversation
        self._progress = progress
        self._uploads = uploads
        self._inputs = inputs
        self._listening = anyio.CancelScope()
        self._heard_all = anyio.Event()
        self.exit_told = anyio.Event()

    async def frames(self) -> None:
        """Hear the runner out."""
        with self._listening:
            try:
                while (frame := await self._runner.channel.receive()) is not None:
                    await self._hear(self._conversation.accept(frame), frame.body)
            except Truncated as error:
                self._try.account.know(protocol_error=str(error))
            except FrameError as error:
                self._try.account.know(protocol_error=str(error))
                self._try.post(Kind.PROTOCOL_ERROR)
            except Exception as error:
                # It passed every check, and something of ours tripped over it all the same. That
                # costs this step, not the worker and the steps beside it.
                log.exception("cannot take what the runner says", extra=self._try.journal.fields)
                self._try.account.know(protocol_error=f"its words raised {type(error).__name__}")
                self._try.post(Kind.PROTOCOL_ERROR)
        self._heard_all.set()
        # An end is what a death looks like, and the exit status says more. Without a death it is
        # a runner from which nothing can come any more.
        with anyio.move_on_after(LAST_FRAMES_S) as stayed:
            await self.exit_told.wait()
        if stayed.cancelled_caught:
            self._try.post(Kind.PROTOCOL_ERROR)

    async def exit(self) -> None:
        """Wait for the process to end, and for what it said last."""
        self._try.account.know(exitcode=await self._runner.wait_exit())
        self._uploads.hurry()
        with anyio.move_on_after(LAST_FRAMES_S):
            await self._heard_all.wait()
        # A descendant may keep the other end open and talk on. It has nothing to say any more.
        self._listening.cancel()
        self._try.post(Kind.EXIT)
        self.exit_told.set()

    async def gone(self) -> None:
        """Wait until the whole tree is gone and its end has been told."""
        await self._runner.wait_gone()
        await self.exit_told.wait()

    async def _hear(self, message: FromRunner, body: bytes) -> None:
        account, post = self._try.account, self._try.post
        match message:
            case Ready():
                post(Kind.READY)
            case Progress():
                self._progress.advance(
                    message.stage, message.item_index, message.step, message.steps
                )
            case Log():
                self._try.journal.runner_log(
                    message.level,
                    message.code,
                    message.message,
                    message.item_index,
                    message.payload,
                )
            case Want():
                self._inputs.want(message.item_index)
            case Artifact():
                self._progress.advance("upload", message.item_index, 0, 1)
                await self._uploads.add(message, body)
            case Result():
                self._saw_peak(message.allocator)
                account.know(result=True)
                post(Kind.RESULT)
            case Failure():
                self._saw_peak(message.details)
                account.know(failure=message)
                post(Kind.FAILURE)

    def _saw_peak(self, figures: dict[str, Any]) -> None:
        """The runner's own peak counts if it is larger than ours, and not larger than possible."""
        peak = figures.get("allocator_peak_bytes")
        if isinstance(peak, int):
            account, device = self._try.account, self._try.slot.device
            account.saw_memory(min(peak, device.total_bytes))
