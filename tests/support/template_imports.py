"""What a template of the tests imports: next to nothing. Its models are names, and each name that
begins a behaviour of `BEHAVIOURS` makes the template misbehave in that way."""

import os
import signal
import threading
import time
from collections.abc import Callable
from errno import EAGAIN
from pathlib import Path

import runner.template.forking as forking
import runner.template.serve as serve
from runner.template.forking import fork_to_worker
from shared.protocol.template_messages import HostModelSpec

FOREVER_S = 3600
HELD_BYTES = 32 << 20

held: list[object] = []


def hold(spec: HostModelSpec) -> None:
    """Take the model as loaded, and misbehave as its name says."""
    if spec.model.name in BEHAVIOURS:
        BEHAVIOURS[spec.model.name](spec)


def _hang(_spec: HostModelSpec) -> None:
    time.sleep(FOREVER_S)


def _run_out_of_memory(_spec: HostModelSpec) -> None:
    raise MemoryError


def _die(_spec: HostModelSpec) -> None:
    """As if the kernel had no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def _start_thread(_spec: HostModelSpec) -> None:
    threading.Thread(target=time.sleep, args=(FOREVER_S,), daemon=True).start()


def _open_device(spec: HostModelSpec) -> None:
    forking.DEVICE_FILES = spec.model.folder
    held.append((Path(spec.model.folder) / "device").open("w"))


def _fork_no_more(_spec: HostModelSpec) -> None:
    def fork() -> int:
        raise OSError(EAGAIN, "Resource temporarily unavailable")

    os.fork = fork


def _die_after_fork(_spec: HostModelSpec) -> None:
    """The child that it forked is there, and the worker does not know its pid."""

    def fork_and_die() -> int:
        if (pid := fork_to_worker()) != 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return pid

    vars(serve)["fork_to_worker"] = fork_and_die


def _take_memory(_spec: HostModelSpec) -> None:
    held.append(b"x" * HELD_BYTES)


BEHAVIOURS: dict[str, Callable[[HostModelSpec], None]] = {
    "hangs": _hang,
    "has-no-memory": _run_out_of_memory,
    "dies": _die,
    "has-a-thread": _start_thread,
    "has-a-device": _open_device,
    "cannot-fork": _fork_no_more,
    "dies-after-fork": _die_after_fork,
    "large": _take_memory,
    "large-too": _take_memory,
}
