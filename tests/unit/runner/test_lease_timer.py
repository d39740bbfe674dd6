"""The dead-man timer of a runner, as the kernel gets it.

That the timer fires is tested with whole runners (`tests/integration/runner/test_session.py`). Any
clock would do there: they differ only on a machine that was suspended.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from runner.process import lease_timer
from runner.process.lease_timer import arm_lease_timer


def test_the_timer_is_a_moment_of_the_clock_that_counts_through_a_suspended_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: dict[str, tuple[Any, ...]] = {}
    monkeypatch.setattr(lease_timer, "call_librt", lambda name, *args: calls.update({name: args}))
    lease_timer.process_timer.cache_clear()
    try:
        arm_lease_timer(5.25)
    finally:
        lease_timer.process_timer.cache_clear()  # no real timer was made
    assert calls["timer_create"][0] == time.CLOCK_BOOTTIME
    _, absolute, when, _ = calls["timer_settime"]
    value = when._obj.value
    assert (absolute, value.s, value.ns) == (1, 5, 250_000_000)  # TIMER_ABSTIME of time.h
