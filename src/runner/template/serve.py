"""What a template does: import, then load and fork as the worker orders, with one thread.

    PREPARED -> LOAD, once, in a model template -> FORK, any number of times

Nothing of a request comes here: an order names a model, or the descriptors of a child. The objects
that the imports and the load left are frozen: the collector of a child then does not write to, and
thereby copy, the pages that all processes share.
"""

import gc
import os
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from types import ModuleType
from typing import NoReturn

from runner.template.forking import (
    Identity,
    Unfit,
    become_child,
    check_fit,
    close_all_but,
    fork_to_worker,
)
from shared.errors import ModelUnavailable
from shared.linux import child
from shared.linux.sandbox import folders_of_kind, sandbox_of
from shared.models.families import LORA
from shared.protocol.frames import FrameDecoder, FrameError, encode
from shared.protocol.template_messages import (
    Fork,
    Forked,
    FromTemplate,
    HostModelSpec,
    Loaded,
    Prepared,
    Refused,
    ToTemplate,
    parse_to_template,
)

READ_BYTES = 1 << 16  # an order has a few hundred bytes
DESCRIPTORS = 2  # of a `fork`: channel and output
MESSAGE_CHARACTERS = 4096

Entry = Callable[[Connection, int], None]


def serve(fd: int, worker_pid: int, runner: Entry, code: str) -> int:
    """Import the module `code`, then obey the worker at socket `fd` until it closes its end.

    `code` imports what a runner imports, and its `hold` loads a model (`runner.template.imports`).
    `runner` is the entry of the runners that this process forks.
    """
    identity = Identity()  # before an import changes the environment
    module = import_module(code)
    gc.freeze()
    return Template(fd, worker_pid, identity, runner, module).serve()


class Template:
    """One template process."""

    def __init__(
        self, fd: int, worker_pid: int, identity: Identity, runner: Entry, code: ModuleType
    ) -> None:
        self._socket = socket.socket(fileno=fd)
        self._worker_pid = worker_pid
        self._identity = identity
        self._runner = runner
        self._code = code
        self._decoder = FrameDecoder(max_body_bytes=0)

    def serve(self) -> int:
        """Answer each order; return the exit code. It does not return in a process it forked."""
        try:
            check_fit()
            self._send(Prepared())
            while (order := self._receive()) is not None:
                self._send(self._obey(*order))
        except Unfit as unfit:
            self._send(Refused(reason="unfit", message=f"a fork would not be sound: {unfit}"))
            return 1
        return 0

    def _obey(self, order: ToTemplate, descriptors: list[int]) -> FromTemplate:
        if isinstance(order, Fork):
            check_fit()
            return self._fork(order, *descriptors)
        answer = self._load(order.spec)
        check_fit()
        return answer

    def _load(self, spec: HostModelSpec) -> Loaded | Refused:
        if (sandbox := sandbox_of(os.environ)) is not None:
            # What a template cannot read, no runner can that it forks.
            loras = folders_of_kind(sandbox.models, LORA) if spec.loader == "generate" else []
            sandbox.narrow([spec.model.folder, *loras], forks=True)
        try:
            self._code.hold(spec)
        except ModelUnavailable as error:
            return Refused(reason="unavailable", message=_short(error.message))
        except Exception as error:
            sys.excepthook(*sys.exc_info())  # the traceback is the operator's
            return Refused(reason="failed", message=_short(f"{type(error).__name__}: {error}"))
        gc.collect()
        gc.freeze()
        return Loaded()

    def _fork(self, order: Fork, channel: int, output: int) -> Forked | Refused:
        answer: Forked | Refused
        try:
            pid = fork_to_worker()
        except OSError as error:
            answer = Refused(reason="failed", message=f"cannot fork: {error.strerror}")
        else:
            if pid == 0:
                self._be_child(order, channel, output)
            answer = Forked(pid=pid)
        os.close(channel)
        os.close(output)
        return answer

    def _be_child(self, order: Fork, channel: int, output: int) -> NoReturn:
        code = 1
        try:
            self._socket.detach()  # closed below, with all that is the template's
            become_child(self._worker_pid, self._identity, order.marker, order.environment, output)
            close_all_but(channel)
            code = self._run_child(order, channel)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        child.exit_now(code)

    def _run_child(self, order: Fork, channel: int) -> int:
        if order.role == "runner":
            self._runner(Connection(channel), self._worker_pid)
            return 0
        child.isolate_process(self._worker_pid)
        if (sandbox := sandbox_of(os.environ)) is not None:  # of its own, beside the other models'
            sandbox.enter(forks=True)
        return Template(channel, self._worker_pid, self._identity, self._runner, self._code).serve()

    def _receive(self) -> tuple[ToTemplate, list[int]] | None:
        """The next order and its descriptors; None when the worker has closed its end."""
        descriptors: list[int] = []
        while True:
            data, received, _, _ = socket.recv_fds(self._socket, READ_BYTES, DESCRIPTORS)
            descriptors += received
            if not data:
                return None
            for frame in self._decoder.feed(data):  # one order at a time
                order = parse_to_template(frame.header)
                if len(descriptors) != (DESCRIPTORS if isinstance(order, Fork) else 0):
                    raise FrameError(f"{order.type} with {len(descriptors)} descriptors")
                return order, descriptors

    def _send(self, message: FromTemplate) -> None:
        self._socket.sendall(encode(message.model_dump()))


def _short(text: str) -> str:
    return text[:MESSAGE_CHARACTERS]
