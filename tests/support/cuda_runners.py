"""Runners that misbehave on a GPU. Like `tests.support.runners`, with CUDA behind GO."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection

from tests.support.runners import behave, finish, polite, stay
from tests.support.supervisor_link import SupervisorLink

from shared.linux.child import exit_now, isolate_process
from supervisor.devices.context_holder import hold_context

HELD_BYTES = 512 << 20
# Long enough to be found there by any test, and over by itself some time later.
KERNEL_CYCLES = 1 << 40


def main(connection: Connection, parent_pid: int) -> None:
    """Import torch, READY, GO, then what the step's prompt says."""
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    import torch  # noqa: F401 - what a real runner has imported before it says READY

    link.ready()
    link.until_go()
    BEHAVIOURS[link.params["prompt"]](link)
    exit_now(0)


def with_context(connection: Connection, parent_pid: int) -> None:
    """READY, GO, a context on the device without torch, then a behaviour of the CPU suite."""
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    link.ready()
    link.until_go()
    hold_context()
    behave(link)
    exit_now(0)


def _hold(link: SupervisorLink) -> object:
    """Fill `HELD_BYTES` of the device, and wait until the parent can have seen it."""
    import time

    import torch

    held = torch.ones(HELD_BYTES, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    time.sleep(0.6)  # three of the parent's samples
    link.progress()
    return held


def holds(link: SupervisorLink) -> None:
    held = _hold(link)
    finish(link)
    del held


def holds_until_asked(link: SupervisorLink) -> None:
    held = _hold(link)
    polite(link)
    del held


def holds_and_ignores(link: SupervisorLink) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    held = _hold(link)
    stay()
    del held


def holds_and_leaves(link: SupervisorLink) -> None:
    held = _hold(link)
    os._exit(0)
    del held


def takes_all(link: SupervisorLink) -> None:
    """Allocate until the device refuses; say so as the real runner does."""
    import torch

    held = [_hold(link)]
    try:
        while True:
            held.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda"))
    except torch.cuda.OutOfMemoryError:
        link.failure("oom")


def spins_in_kernel(link: SupervisorLink) -> None:
    """A kernel that runs for minutes, and a thread that waits for it in C code."""
    import torch

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    held = torch.ones(1 << 20, device="cuda")
    torch.cuda._sleep(KERNEL_CYCLES)  # type: ignore[no-untyped-call]
    link.progress()
    torch.cuda.synchronize()
    del held


def pins(link: SupervisorLink) -> None:
    """Page-locked host memory, which the driver must unmap after a SIGKILL."""
    import torch

    pinned = torch.ones(HELD_BYTES, dtype=torch.uint8).pin_memory()
    held = pinned.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    _hold(link)
    stay()
    del held


BEHAVIOURS = {
    behaviour.__name__: behaviour
    for behaviour in (
        holds, holds_until_asked, holds_and_ignores, holds_and_leaves, takes_all, spins_in_kernel,
        pins,
    )
}  # fmt: skip
