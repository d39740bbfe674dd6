"""One step, from READY to RESULT: the flow of the runner. `runner.entry` came before it.

The garbage collector is off while torch and the pipelines are imported, and what they left is
frozen afterwards: 400,000 objects that live for ever are then never walked again.

    READY -> wait for GO -> arm the lease timer, leave other models, handle signals, listen
          -> prepare, run, cleanup (`runner.job_types.base.Job`) -> free memory -> RESULT or FAILURE

Before GO nothing touches the device: a runner on standby must not hold a context on a GPU that the
worker is measuring. Before GO a SIGTERM simply kills.
"""

# ruff: noqa: E402 - the collector must be off before the imports, that is the point
from __future__ import annotations

import gc

gc.disable()

import os
import platform
import sys
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from runner.failures import build_failure
from runner.ipc.channel import Channel
from runner.ipc.inputs import Inputs
from runner.ipc.previews import PreviewRequests
from runner.job_types.base import Context
from runner.job_types.registry import JOB_TYPES
from runner.process.cancellation import Stop, handle_sigterm
from runner.process.lease_timer import LeaseTimer
from runner.process.memory import Memory, release_memory
from shared.linux.sandbox import sandbox_of
from shared.protocol.frames import FrameError
from shared.protocol.messages import (
    INTERFACE,
    Attention,
    Cancel,
    Failure,
    FromRunner,
    Go,
    Input,
    Lease,
    PresetSpec,
    Progress,
    Ready,
    Result,
    Show,
    Stage,
)

# No gc.collect() first: measured, it takes 0.3 to 0.6 s here and gives back less than 1 MiB.
gc.freeze()
gc.enable()

PACKAGES = ("dreamforge", "torch", "diffusers", "transformers", "safetensors", "pillow")


def serve(fd: int) -> int:
    """Speak the protocol on socket `fd` until the step has ended; return the exit code."""
    channel = Channel(fd)
    versions = installed_versions()
    channel.send(Ready(interface=INTERFACE, pid=os.getpid(), versions=versions))
    first = channel.receive()
    if first is None:
        return 0  # a standby that no step needed
    match first[0]:
        case Go() as go:
            channel.send(_perform(go, channel, versions))
        case Cancel():
            channel.send(Failure(reason="cancelled", message="cancelled before it began"))
        case Lease() | Show() | Input() as early:
            raise FrameError(f"{early.type} before go")
    return 0


def _perform(go: Go, channel: Channel, versions: dict[str, str]) -> Result | Failure:
    timer = LeaseTimer()
    timer.arm(go.dies_at)
    if (sandbox := sandbox_of(os.environ)) is not None:
        sandbox.narrow(go.spec.folders)
    stop = Stop()
    handle_sigterm(stop)
    inputs, previews = Inputs(go.spec, channel.send, stop), PreviewRequests()
    listener = threading.Thread(
        target=_listen, args=(channel, timer, stop, inputs, previews), name="listen", daemon=True
    )
    listener.start()
    configure_torch(go.spec.preset)
    with release_memory(go.spec.preset.device) as memory:
        emit = ProgressEmitter(channel)
        ctx = Context(
            spec=go.spec,
            emit=emit,
            stop=stop,
            versions=versions,
            inputs=inputs,
            previews=previews,
        )
        outcome = _attempt(ctx, emit, memory)
    if isinstance(outcome, Failure):
        details = outcome.details | memory.figures
        return outcome.model_copy(update={"details": details})
    return outcome.model_copy(update={"allocator": memory.figures})


def _attempt(ctx: Context[Any], emit: ProgressEmitter, memory: Memory) -> Result | Failure:
    """Run the job to its end. Never raises: a live exception would hold what must be freed."""
    job = JOB_TYPES[ctx.spec.type]()
    try:
        job.prepare(ctx)
        return Result(items=job.run(ctx.spec.params, emit))
    except Exception as error:
        return build_failure(
            error,
            doing=emit.doing,
            folder=None if ctx.spec.model is None else ctx.spec.model.folder,
            memory=memory.read(),
            item_index=emit.item_index,
        )
    finally:
        job.cleanup()


def _listen(
    channel: Channel, timer: LeaseTimer, stop: Stop, inputs: Inputs, previews: PreviewRequests
) -> None:
    """Obey the worker while the step runs. When the worker is gone, the step ends."""
    try:
        while (received := channel.receive()) is not None:
            match received:
                case Lease() as lease, _:
                    timer.arm(lease.dies_at)
                case Cancel(), _:
                    stop.request()
                case Show(), _:
                    previews.ask()
                case Input() as message, body:
                    inputs.deliver(message, body)
                case Go(), _:
                    raise FrameError("a second go")
    except (FrameError, OSError) as error:
        sys.stderr.write(f"the worker's end is unusable: {error}\n")
    stop.request_and_exit()


# Which kernels of attention may be used under each name. Each has models that it cannot do: flash
# takes heads of up to 256 and no mask, and a VAE's one head has 512. So there is always one behind
# it that can, down to plain matrix products; torch takes the first that fits.
KERNELS: dict[Attention, frozenset[Attention]] = {
    "auto": frozenset({"flash", "efficient", "math"}),
    "flash": frozenset({"flash", "efficient", "math"}),
    "efficient": frozenset({"efficient", "math"}),
    "math": frozenset({"math"}),
}


def configure_torch(preset: PresetSpec) -> None:
    """Threads and kernels as the preset says; the same bytes for the same seed on one device."""
    torch.set_num_threads(preset.threads)
    # The switches are called `cuda` and hold for the CPU as well.
    allowed = KERNELS[preset.attention]
    torch.backends.cuda.enable_flash_sdp("flash" in allowed)
    torch.backends.cuda.enable_mem_efficient_sdp("efficient" in allowed)
    torch.backends.cuda.enable_math_sdp("math" in allowed)
    # cuDNN's would come before any of these.
    torch.backends.cuda.enable_cudnn_sdp(preset.attention == "auto")
    if preset.device == "cuda":
        torch.backends.cudnn.benchmark = False  # picks algorithms by timing, so not always the same
        torch.backends.cudnn.deterministic = True


class ProgressEmitter:
    """Sends messages, and keeps where the job is: a failure says what it happened in."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.doing = "loading the model"
        self.item_index: int | None = None

    def __call__(self, message: FromRunner, body: bytes = b"") -> None:
        if isinstance(message, Progress):
            self.item_index = message.item_index
            self.doing = DOING[message.stage]
        self._channel.send(message, body)


DOING: dict[Stage, str] = {
    "load": "loading the model",
    "sampling": "sampling",
    "decode": "decoding the picture",
}


@cache
def installed_versions() -> dict[str, str]:
    """What makes the picture; part of its metadata and of READY."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # dreamforge itself, when run from a bare source tree
            continue
    return versions
