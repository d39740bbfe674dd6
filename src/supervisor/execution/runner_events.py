"""Turns what a runner says, and its end, into facts for the state machine.

Two tasks per runner. `read_frames` reads until the stream ends; `wait_exit` waits for the process.
An end of the stream is what a death looks like, so it waits for the death, which says more; and a
death waits a moment for the last frames, which may hold the result.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from shared.protocol.frames import FrameError
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
from supervisor.execution.context import Execution
from supervisor.execution.inputs import InputSender
from supervisor.execution.runner_protocol import RunnerProtocol
from supervisor.execution.uploader import Uploader
from supervisor.lifecycle.step import EventKind
from supervisor.processes.channel import Truncated
from supervisor.processes.child import LAST_FRAMES_S, RunnerProcess
from supervisor.recording.progress import ProgressReporter

log = logging.getLogger(__name__)


class RunnerListener:
    """The ears of one try. `exit_reported` is set when the end of the runner has been reported."""

    def __init__(
        self,
        execution: Execution,
        runner: RunnerProcess,
        protocol: RunnerProtocol,
        *,
        progress: ProgressReporter,
        uploader: Uploader,
        inputs: InputSender,
    ) -> None:
        self._execution = execution
        self._runner = runner
        self._protocol = protocol
        self._progress = progress
        self._uploader = uploader
        self._inputs = inputs
        self._reading = anyio.CancelScope()
        self._all_read = anyio.Event()
        self.exit_reported = anyio.Event()

    async def read_frames(self) -> None:
        """Hear the runner out."""
        with self._reading:
            try:
                while (frame := await self._runner.channel.receive()) is not None:
                    await self._handle(self._protocol.accept(frame), frame.body)
            except Truncated as error:
                self._execution.evidence.know(protocol_error=str(error))
            except FrameError as error:
                self._execution.evidence.know(protocol_error=str(error))
                self._execution.post(EventKind.PROTOCOL_ERROR)
            except Exception as error:
                # It passed every check, and something of ours tripped over it all the same. That
                # costs this step, not the worker and the steps beside it.
                log.exception(
                    "cannot take what the runner says", extra=self._execution.recorder.fields
                )
                self._execution.evidence.know(
                    protocol_error=f"its words raised {type(error).__name__}"
                )
                self._execution.post(EventKind.PROTOCOL_ERROR)
        self._all_read.set()
        # An end is what a death looks like, and the exit status says more. Without a death it is
        # a runner from which nothing can come any more.
        with anyio.move_on_after(LAST_FRAMES_S) as stayed:
            await self.exit_reported.wait()
        if stayed.cancelled_caught:
            self._execution.post(EventKind.PROTOCOL_ERROR)

    async def wait_exit(self) -> None:
        """Wait for the process to end, and for what it said last."""
        self._execution.evidence.know(exitcode=await self._runner.wait_exit())
        self._uploader.stop_backpressure()
        with anyio.move_on_after(LAST_FRAMES_S):
            await self._all_read.wait()
        # A descendant may keep the other end open and talk on. It has nothing to say any more.
        self._reading.cancel()
        self._execution.post(EventKind.EXIT)
        self.exit_reported.set()

    async def wait_gone(self) -> None:
        """Wait until the whole tree is gone and its end has been told."""
        await self._runner.wait_gone()
        await self.exit_reported.wait()

    async def _handle(self, message: FromRunner, body: bytes) -> None:
        evidence, post = self._execution.evidence, self._execution.post
        match message:
            case Ready():
                post(EventKind.READY)
            case Progress():
                self._progress.advance(
                    message.stage, message.item_index, message.step, message.steps
                )
            case Log():
                self._execution.recorder.record_runner_log(
                    message.level,
                    message.code,
                    message.message,
                    message.item_index,
                    message.payload,
                )
            case Want():
                self._inputs.request(message.item_index)
            case Artifact():
                self._progress.advance("upload", message.item_index, 0, 1)
                await self._uploader.add(message, body)
            case Result():
                self._record_peak(message.allocator)
                evidence.know(result=True)
                post(EventKind.RESULT)
            case Failure():
                self._record_peak(message.details)
                evidence.know(failure=message)
                post(EventKind.FAILURE)

    def _record_peak(self, figures: dict[str, Any]) -> None:
        """The runner's own peak counts if it is larger than ours, and not larger than possible."""
        peak = figures.get("allocator_peak_bytes")
        if isinstance(peak, int):
            evidence, device = self._execution.evidence, self._execution.slot.device
            evidence.record_memory(min(peak, device.total_bytes))
