"""A worker's end of the socketpair, for tests of the runner, and runners that get stuck."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sized
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from tests.support.runner_template import ForkedRunner, fork_runner

from runner import entry
from shared.linux import child
from shared.models.verify import read_model
from shared.protocol.frames import Frame, FrameDecoder, encode
from shared.protocol.messages import (
    Cancel,
    Failure,
    FromRunner,
    GenerateParams,
    GenerateSpec,
    Go,
    Lease,
    ModelSpec,
    PresetSpec,
    Ready,
    Result,
    RunSpec,
    ToRunner,
    parse_from_runner,
)

TIMEOUT_S = 60.0

_M = TypeVar("_M", bound=FromRunner)


class Peer:
    """One runner, forked or spawned. Use as a context manager: at its end the process is gone."""

    process: ForkedRunner | SpawnProcess

    def __init__(self, target: Callable[..., None] = entry.main) -> None:
        """A fork of this process's template, which runs `target`."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = fork_runner(target, theirs)
        self._listen()

    @classmethod
    def spawned(cls, target: Callable[..., None] = entry.main, *args: object) -> Self:
        """One that imports for itself."""
        self = cls.__new__(cls)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe(duplex=True)
        self.process = spawn.Process(target=target, args=(theirs, os.getpid(), *args))
        self.process.start()
        theirs.close()
        self.socket = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()
        self._listen()
        return self

    def _listen(self) -> None:
        self.socket.settimeout(TIMEOUT_S)
        self.decoder = FrameDecoder()
        self.frames: list[Frame] = []
        self.seen: list[tuple[FromRunner, bytes]] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.kill()
        self.process.join(TIMEOUT_S)
        self.process.close()

    def send(self, message: ToRunner, body: bytes = b"") -> None:
        self.socket.sendall(encode(message.model_dump(), body))

    def receive(self) -> FromRunner | None:
        """The next message, remembered in `seen`; None at the end of the stream."""
        while not self.frames:
            data = self.socket.recv(1 << 16)
            if not data:
                self.decoder.eof()
                return None
            self.frames.extend(self.decoder.feed(data))
        frame = self.frames.pop(0)
        message = parse_from_runner(frame.header)
        self.seen.append((message, frame.body))
        return message

    def until(self, kind: type[_M]) -> _M:
        """Read on to the first message of this kind."""
        while (message := self.receive()) is not None:
            if isinstance(message, kind):
                return message
        raise AssertionError(f"the stream ended without {kind.__name__}")

    def outcome(self) -> Result | Failure:
        """Read to the end of the stream: the last message must be the verdict."""
        while self.receive() is not None:
            continue
        last = self.seen[-1][0]
        assert isinstance(last, Result | Failure), last
        return last

    def all(self, kind: type[_M]) -> list[_M]:
        return [message for message, _ in self.seen if isinstance(message, kind)]

    def go(self, spec: RunSpec, *, lease_s: float = 60.0) -> Peer:
        """Send GO, with a lease timer that fires so many seconds from now."""
        if not self.all(Ready):
            self.until(Ready)
        self.send(Go(spec=spec, dies_at=_now() + lease_s))
        return self

    def cancel(self) -> None:
        self.send(Cancel())

    def lease(self, lease_s: float) -> None:
        self.send(Lease(dies_at=_now() + lease_s))

    def exit_code(self) -> int | None:
        self.process.join(TIMEOUT_S)
        return self.process.exitcode


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run_spec(folder: Path, **params: Any) -> GenerateSpec:
    """A step on the CPU with the model of `folder`; `params` override the model's defaults."""
    model = read_model(folder)
    given = {"prompt": "a red cube", **model.defaults.model_dump(), "steps": 3, **params}
    done = given.pop("done_items", [])
    return GenerateSpec(
        job_id="job-1",
        step_id="step-1",
        step_name="generate",
        model=ModelSpec(
            id=f"{model.name}@{model.version}",
            name=model.name,
            version=model.version,
            kind=model.kind,
            folder=str(folder),
            checkpoint_sha256=model.checkpoint_sha256,
        ),
        preset=PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
        params=GenerateParams(**given),
        done_items=done,
    )


def confess(connection: Connection, parent_pid: int, path: str) -> None:
    """The real runner; before it leaves it writes down what it has of its parent."""
    leave = child.exit_now
    tracked: list[str] = []

    def track(name: Sized, rtype: str) -> None:
        tracked.append(f"{rtype} {name!r}")

    resource_tracker.register = track

    def confess_and_leave(code: int) -> NoReturn:
        facts = {
            "environ": dict(os.environ),
            "modules": sorted(sys.modules),
            "tracked": tracked,
            "sid": os.getsid(0),
            "pid": os.getpid(),
            "fds": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in _fds()),
        }
        Path(path).write_text(json.dumps(facts))
        leave(code)

    child.exit_now = confess_and_leave
    entry.main(connection, parent_pid)


def _fds() -> list[str]:
    """What is open beyond the standard streams, which the tests' own runner redirects."""
    return [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and _is_open(fd)]


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def third_picture_fails(connection: Connection, parent_pid: int) -> None:
    """The real runner; a disk would be full here, an encoder broken."""
    from runner.images import encode as images
    from runner.images import sender  # only in the child: this is the import of torch

    encode_image, made = images.encode_image, []

    def encode(*args: Any, **kwargs: Any) -> bytes:
        made.append(args)
        if len(made) == 3:
            raise OSError("the encoder broke")
        return encode_image(*args, **kwargs)

    sender.__dict__["encode_image"] = encode
    entry.main(connection, parent_pid)


def stuck_in_c(connection: Connection, parent_pid: int) -> None:
    """A runner whose sampling never returns from C code that has released the GIL."""
    _replace_job(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1))
    entry.main(connection, parent_pid)


def stuck_with_gil(connection: Connection, parent_pid: int) -> None:
    """A runner in which no Python thread will ever run again."""
    _replace_job(lambda: ctypes.PyDLL(None).sleep(600))
    entry.main(connection, parent_pid)


def deaf_to_alarms(connection: Connection, parent_pid: int) -> None:
    """A runner in which a library handles, and blocks, every signal that can be."""

    def block_and_sleep() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(600)

    _replace_job(block_and_sleep)
    entry.main(connection, parent_pid)


def _replace_job(body: Callable[[], object]) -> None:
    # Only in the child: this is the import of torch.
    from runner.ipc import channel
    from runner.job_types import base, registry
    from shared.protocol.messages import Progress

    class Stuck:
        def prepare(self, ctx: base.Context[Any]) -> None:
            pass

        def run(self, params: Any, emit: channel.Emit) -> int:
            emit(Progress(stage="sampling", item_index=0, step=0, steps=1))
            body()
            return 1

        def cleanup(self) -> None:
            pass

    registry.JOB_TYPES["generate"] = Stuck
