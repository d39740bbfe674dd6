"""Turns the frames of a runner, and its end, into facts for the state machine.

Two tasks per runner. `read_frames` reads until the stream ends; `wait_exit` waits for the process.
The end of a stream may mean a death, so it waits for the death, which says more. A death waits a
moment for the last frames, which may hold the result.
"""

import logging
from typing import Any

import anyio
from anyio.abc import TaskGroup

from shared.linux.clock import boottime
from shared.protocol.frames import FrameError
from shared.protocol.messages import (
    Artifact,
    Failure,
    FromRunner,
    Log,
    Preview,
    Progress,
    Ready,
    Result,
    Want,
)
from supervisor.execution.context import Execution
from supervisor.execution.inputs import send_input
from supervisor.execution.runner_protocol import RunnerProtocol
from supervisor.execution.uploader import Uploader
from supervisor.lifecycle.step import EventKind
from supervisor.processes.channel import Truncated
from supervisor.processes.child import LAST_FRAMES_S, ChildProcess

log = logging.getLogger(__name__)


class RunnerListener:
    """Listens to the runner of one execution."""

    def __init__(
        self,
        execution: Execution,
        runner: ChildProcess,
        protocol: RunnerProtocol,
        uploader: Uploader,
        tasks: TaskGroup,
    ) -> None:
        self._execution = execution
        self._evidence = execution.evidence
        self._recorder = execution.recorder
        self._progress = execution.progress
        self._post = execution.post
        self._device = execution.slot.device
        self._runner = runner
        self._protocol = protocol
        self._uploader = uploader
        self._tasks = tasks
        self._reading = anyio.CancelScope()
        self._all_read = anyio.Event()
        self._exit_reported = anyio.Event()

    async def read_frames(self) -> None:
        """Handle every frame until the stream ends."""
        with self._reading:
            try:
                while (frame := await self._runner.channel.receive()) is not None:
                    await self._handle(self._protocol.accept(frame), frame.body)
            except Truncated as error:
                self._evidence.facts.protocol_error = str(error)
            except FrameError as error:
                self._evidence.facts.protocol_error = str(error)
                self._post(EventKind.PROTOCOL_ERROR)
            except Exception as error:
                # The frame passed every check, and our own code failed on it. That costs this step,
                # not the worker and the steps beside it.
                log.exception("cannot handle a message of the runner", extra=self._recorder.fields)
                self._evidence.facts.protocol_error = f"its words raised {type(error).__name__}"
                self._post(EventKind.PROTOCOL_ERROR)
        self._all_read.set()
        # Usually the process died, and its exit status says more. If it lives, nothing can come
        # from it any more.
        with anyio.move_on_after(LAST_FRAMES_S) as waiting:
            await self._exit_reported.wait()
        if waiting.cancelled_caught:
            self._post(EventKind.PROTOCOL_ERROR)

    async def wait_exit(self) -> None:
        """Wait for the process to end, and for its last frames."""
        self._evidence.facts.exitcode = await self._runner.wait_exit()
        self._evidence.facts.lease_over = self._execution.fence.dies_at <= boottime()
        self._uploader.stop_backpressure()
        with anyio.move_on_after(LAST_FRAMES_S):
            await self._all_read.wait()
        # A descendant may keep the other end open and go on writing. It is not the runner.
        self._reading.cancel()
        self._post(EventKind.EXIT)
        self._exit_reported.set()

    async def wait_gone(self) -> None:
        """Wait until the whole tree is gone and the exit was reported."""
        await self._runner.wait_gone()
        await self._exit_reported.wait()

    async def _handle(self, message: FromRunner, body: bytes) -> None:
        match message:
            case Ready():
                self._post(EventKind.READY)
            case Progress():
                self._progress.advance(
                    message.stage, message.item_index, message.step, message.steps
                )
            case Log():
                self._recorder.record_runner_log(message)
            case Want():
                self._tasks.start_soon(
                    send_input, self._execution, self._runner, self._protocol, message.item_index
                )
            case Preview():
                if (previews := self._execution.worker.previews) is not None:
                    previews.publish(self._execution.claim.job_id, message, body)
            case Artifact():
                self._progress.advance("upload", message.item_index, 0, 1)
                await self._uploader.add(message, body)
            case Result():
                self._record_peak(message.allocator)
                self._evidence.facts.result = True
                self._post(EventKind.RESULT)
            case Failure():
                self._record_peak(message.details)
                self._evidence.facts.failure = message
                self._post(EventKind.FAILURE)

    def _record_peak(self, figures: dict[str, Any]) -> None:
        """The runner's own peak counts if it is larger than ours, and not larger than possible."""
        peak_bytes = figures.get("allocator_peak_bytes")
        if isinstance(peak_bytes, int):
            self._evidence.record_memory(min(peak_bytes, self._device.total_bytes))
