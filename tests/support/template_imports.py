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
from shared.protocol.frames import encode
from shared.protocol.template_messages import Forked, FromTemplate, HostModelSpec

FOREVER_S = 3600
HELD_BYTES = 32 << 20
STRANGER = "stranger"  # a file in the model's folder

held: list[object] = []
send = serve.Template._send


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


def _name_a_stranger(spec: HostModelSpec) -> None:
    """Its forks are there, and it gives the worker the number that stands in `STRANGER`."""

    def forked(pid: int) -> Forked:
        return Forked(pid=int((Path(spec.model.folder) / STRANGER).read_text()))

    vars(serve)["Forked"] = forked


def _answer_twice(_spec: HostModelSpec) -> None:
    _replace_send(lambda template, message: (send(template, message), send(template, message)))


def _answer_half(_spec: HostModelSpec) -> None:
    def send_half(template: serve.Template, message: FromTemplate) -> None:
        data = encode(message.model_dump())
        template._socket.sendall(data[: len(data) // 2])
        template._socket.close()
        time.sleep(FOREVER_S)

    _replace_send(send_half)


def _hang_at_fork(_spec: HostModelSpec) -> None:
    _replace_send(lambda _template, _message: time.sleep(FOREVER_S))


def _replace_send(instead: Callable[[serve.Template, FromTemplate], object]) -> None:
    """Answer each fork that way."""

    def send_instead(template: serve.Template, message: FromTemplate) -> None:
        (instead if message.type == "forked" else send)(template, message)

    vars(serve)["Template"]._send = send_instead


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
    "names-a-stranger": _name_a_stranger,
    "answers-twice": _answer_twice,
    "answers-half": _answer_half,
    "hangs-at-fork": _hang_at_fork,
    "large": _take_memory,
    "large-too": _take_memory,
}
