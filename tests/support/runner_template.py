"""A template for tests that speak to a runner without a worker: what they fork has torch already.

It is the product's own, and this process is its worker. A spawned runner takes ten seconds of CPU
to import; those are for tests of what a spawn inherits.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import select
import signal
import socket
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import TypeVar

from runner import entry
from shared.linux import prctl
from shared.linux.child import MARKER
from shared.protocol.frames import FrameDecoder, encode
from shared.protocol.template_messages import (
    Fork,
    Forked,
    FromTemplate,
    Prepared,
    parse_from_template,
)

PREPARED_WITHIN_S = 120.0
# Which function the fork runs, as `module:name`. It is cleared with the rest of the environment.
TARGET = "TEST_TARGET"
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_M = TypeVar("_M", bound=FromTemplate)


def target(connection: Connection, parent_pid: int) -> None:
    """What every fork runs: the function that it was asked for."""
    module, _, name = os.environ[TARGET].partition(":")
    getattr(import_module(module), name)(connection, parent_pid)


class ForkedRunner:
    """A child of this process. It has what a `multiprocessing.Process` has."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.exitcode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def join(self, timeout: float) -> None:
        if self.exitcode is None and select.select([self._pidfd], [], [], timeout)[0]:
            self.exitcode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self._pidfd)


class RunnerTemplate:
    """Started at the first fork, and closed with this process."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe(duplex=True)
        self._process = spawn.Process(
            target=entry.template, args=(theirs, os.getpid()), kwargs={"runner": target}
        )
        os.environ[MARKER] = "test"
        try:
            self._process.start()
        finally:
            del os.environ[MARKER]
        theirs.close()
        self._socket = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()
        self._socket.settimeout(PREPARED_WITHIN_S)
        self._decoder = FrameDecoder(max_body_bytes=0)
        self._answer(Prepared)

    def fork(self, function: Callable[..., None], channel: socket.socket) -> ForkedRunner:
        """A runner that runs `function` with this end of its channel."""
        name = f"{function.__module__}:{function.__name__}"
        order = Fork(role="runner", marker="test", environment={TARGET: name})
        # While it is forked, it has no parent but whoever adopts it.
        prctl.adopt_orphans()
        try:
            socket.send_fds(self._socket, [encode(order.model_dump())], [channel.fileno(), 2])
            return ForkedRunner(self._answer(Forked).pid)
        finally:
            prctl.prctl(_PR_SET_CHILD_SUBREAPER, 0)

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.join()
        self._process.close()

    def _answer(self, kind: type[_M]) -> _M:
        while data := self._socket.recv(1 << 16):
            for frame in self._decoder.feed(data):
                message = parse_from_template(frame.header)
                assert isinstance(message, kind), message
                return message
        raise AssertionError("the template has ended")


_templates: list[RunnerTemplate] = []


def fork_runner(function: Callable[..., None], channel: socket.socket) -> ForkedRunner:
    """Fork a runner of the one template of this process."""
    if not _templates:
        _templates.append(RunnerTemplate())
        atexit.register(_templates[0].close)
    return _templates[0].fork(function, channel)
