"""One template process, from the worker's side: it is prepared, loads a model, forks children.

Every answer is bounded in time. A template that does not answer, answers something else or ends is
killed, and raises `TemplateFailed`: no step depends on it, the pool spawns runners instead.
"""

import logging
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from enum import StrEnum
from typing import NoReturn, TypeVar

import anyio
import psutil

from shared.protocol.frames import FrameError
from shared.protocol.template_messages import (
    Fork,
    Forked,
    FromTemplate,
    HostModelSpec,
    Load,
    Loaded,
    Prepared,
    Refused,
    Role,
    parse_from_template,
)
from supervisor.processes.child import ChildProcess, kill
from supervisor.processes.forked import ForkedProcess
from supervisor.processes.stdio import OutputReader
from supervisor.processes.tree import announced
from supervisor.templates import oom_score

log = logging.getLogger(__name__)

# A fork takes some 50 ms; a host whose cores are all busy takes longer.
FORK_WITHIN_S = 5.0
# SIGKILL needs no cooperation; what is there after this waits on hardware.
CLOSE_S = 10.0

_M = TypeVar("_M", bound=FromTemplate)


class TemplateState(StrEnum):
    STARTING = "starting"  # imports
    LOADING = "loading"  # a model
    READY = "ready"
    FAILED = "failed"  # killed, or about to be


class FailureReason(StrEnum):
    """Why a template serves no more, or never did."""

    DIED = "died"
    HUNG = "hung"
    UNFIT = "unfit"  # a thread or a device: a fork of it would not be sound
    PROTOCOL = "protocol"
    UNAVAILABLE = "unavailable"  # the model's files are not as promised
    FAILED = "failed"  # the load raised, or the host has no process or descriptor left


class TemplateFailed(Exception):
    """This template did not do what it was told; the pool goes on without it."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def failure_of(error: TemplateFailed | OSError) -> TemplateFailed:
    """What a start that raised counts as: `OSError` where the host has no process, thread or
    descriptor left."""
    if isinstance(error, TemplateFailed):
        return error
    return TemplateFailed(FailureReason.FAILED, f"cannot be started: {error.strerror or error}")


class Template:
    """A started template. One order at a time; `close` it when it is not needed any more."""

    def __init__(self, process: ChildProcess) -> None:
        self._process = process
        self._asking = anyio.Lock()
        self._failure: TemplateFailed | None = None  # why it was killed
        self._forking = False
        self._comes_first = False  # when the kernel kills for want of memory
        self.state = TemplateState.STARTING

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _ended(self) -> bool:
        return self.state is TemplateState.FAILED

    def memory(self) -> tuple[int, int]:
        """Resident memory of the process, and how much of it is no mapped file: only that is in
        use by the host's account. Raises `OSError` when it has ended."""
        try:
            now = psutil.Process(self.pid).memory_info()
        except psutil.Error as error:
            raise OSError(str(error)) from error
        return now.rss, now.rss - now.shared

    async def prepare(self, within_s: float) -> None:
        """Wait until it can be forked from. Raises `TemplateFailed`."""
        async with self._asking:
            await self._answer(Prepared, within_s)
            self.state = TemplateState.READY

    async def load(self, spec: HostModelSpec, within_s: float) -> None:
        """Load a model onto the host, once. Raises `TemplateFailed`."""
        async with self._asking:
            self.state = TemplateState.LOADING
            self._comes_first = True
            oom_score.raise_to_most(self.pid)
            await self._ask(Load(spec=spec), [], Loaded, within_s)
            self.state = TemplateState.READY

    async def fork(self, role: Role, marker: str, environment: Mapping[str, str]) -> ForkedProcess:
        """A new child of this worker. Raises `TemplateFailed`, and `OSError` without descriptors.

        Not interrupted: a child whose pid is not known yet could not be ended.
        """
        with anyio.CancelScope(shield=True):
            async with self._asking:
                if self._ended:
                    raise self._failure or TemplateFailed(FailureReason.DIED, "it has been ended")
                self._forking = True
                try:
                    child = await self._fork(role, marker, environment)
                finally:
                    self._forking = False
                    if self._ended:
                        kill(self._process.tree)
        return child

    async def _fork(self, role: Role, marker: str, environment: Mapping[str, str]) -> ForkedProcess:
        order = Fork(role=role, marker=marker, environment=dict(environment))
        with ExitStack() as undo:
            ours, other = socket.socketpair()
            undo.callback(ours.close)
            output = OutputReader()
            undo.callback(output.close)
            with other, announced(marker) as may_be_it:
                descriptors = [other.fileno(), output.write_end.fileno()]
                answer = await self._ask(order, descriptors, Forked, FORK_WITHIN_S)
                output.write_end.close()
                if not may_be_it(answer.pid):
                    self._fail(FailureReason.PROTOCOL, f"process {answer.pid} is no fork of it")
                child = ForkedProcess(answer.pid, marker, ours, output)
            if self._comes_first:
                oom_score.restore(child.pid)
            undo.pop_all()
        return child

    async def fail_at_end(self) -> NoReturn:
        """Wait until it has ended, and raise why: a template never ends by itself."""
        exitcode = await self._process.wait_exit()
        self.state = TemplateState.FAILED
        raise self._failure or TemplateFailed(FailureReason.DIED, f"ended, exit code {exitcode}")

    def kill(self) -> None:
        """End it, after the fork that is under way: the child is the worker's as soon as its pid is
        known. A template holds no device, so no SIGTERM comes first."""
        self.state = TemplateState.FAILED
        if not self._forking:
            kill(self._process.tree)

    async def close(self) -> None:
        """Kill it and wait until it is gone. The last call."""
        self.kill()
        with anyio.CancelScope(shield=True), anyio.move_on_after(FORK_WITHIN_S):
            async with self._asking:  # whoever waits for an answer sees the end first
                pass
        try:
            if not await self._process.kill_and_close(CLOSE_S):
                log.error("template %d does not die", self.pid)
                self._process.close()
        except OSError as error:  # /proc cannot be read; the worker's end kills what is left
            log.error("template %d cannot be looked for: %s", self.pid, error)

    async def _ask(
        self, order: Load | Fork, descriptors: list[int], answer: type[_M], within_s: float
    ) -> _M:
        try:
            self._process.channel.send_descriptors(order.model_dump(), descriptors)
        except OSError as error:
            self._fail(FailureReason.DIED, f"takes no orders: {error}")
        return await self._answer(answer, within_s)

    async def _answer(self, kind: type[_M], within_s: float) -> _M:
        with anyio.move_on_after(within_s):
            message = await self._receive()
            if isinstance(message, kind):
                return message
            if isinstance(message, Refused):
                self._refuse(message)
            self._fail(FailureReason.PROTOCOL, f"answered {message.type} to {kind.__name__}")
        self._fail(FailureReason.HUNG, f"no answer within {within_s:g} s")

    async def _receive(self) -> FromTemplate:
        try:
            frame = await self._process.channel.receive()
            if frame is not None:
                return parse_from_template(frame.header)
        except FrameError as error:
            self._fail(FailureReason.PROTOCOL, str(error))
        self._fail(FailureReason.DIED, f"ended with exit code {self._process.exitcode}")

    def _refuse(self, refusal: Refused) -> NoReturn:
        match refusal.reason:
            case "unfit":
                self._fail(FailureReason.UNFIT, refusal.message)
            case "unavailable":
                raise TemplateFailed(FailureReason.UNAVAILABLE, refusal.message)
            case "failed":
                raise TemplateFailed(FailureReason.FAILED, refusal.message)

    def _fail(self, reason: FailureReason, message: str) -> NoReturn:
        self._failure = TemplateFailed(reason, message)
        self._forking = False  # there is nothing to wait for
        self.kill()
        raise self._failure
