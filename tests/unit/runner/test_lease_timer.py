"""What a runner asks of the kernel for its own end.

That the timer fires is shown with whole runners (`tests/integration/runner/test_session.py`). Any
clock would do there: they differ only on a machine that was suspended.
"""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from runner.process.lease_timer import LeaseTimer


def test_the_timer_is_a_moment_of_the_clock_that_counts_through_a_suspended_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: dict[str, tuple[Any, ...]] = {}

    class Library:
        """In place of librt: no real timer is made."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def __getattr__(self, name: str) -> Callable[..., int]:
            return lambda *arguments: calls.update({name: arguments}) or 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    LeaseTimer().arm(5.25)
    clock, event, _ = calls["timer_create"]
    assert clock == time.CLOCK_BOOTTIME
    assert (event.contents.notify, event.contents.signo) == (0, signal.SIGKILL)  # SIGEV_SIGNAL
    assert ctypes.sizeof(event.contents) == 64
    _, absolute, when, _ = calls["timer_settime"]
    value = when.contents.value
    assert (absolute, value.s, value.ns) == (1, 5, 250_000_000)  # TIMER_ABSTIME of time.h


def test_a_refusal_of_the_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 99)
    with pytest.raises(OSError, match="timer_create: Invalid argument"):
        LeaseTimer()
