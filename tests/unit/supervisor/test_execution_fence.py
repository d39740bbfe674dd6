"""The local end of a lease."""

from __future__ import annotations

import time

import pytest

from shared.linux.clock import boottime
from supervisor.execution import fence as fence_module
from supervisor.execution.fence import Fence


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fence_module, "boottime", clock)
    return clock


def test_a_fence_holds_until_its_time_after_the_renewal_was_sent(clock: Clock) -> None:
    fence = Fence(sent=95.0, fence_s=40.0, deadman_s=50.0)
    assert (fence.left_s, fence.holds) == (35.0, True)
    clock.now = 135.0
    assert (fence.left_s, fence.holds) == (0.0, False)


def test_a_runner_dies_at_a_moment_that_no_delay_moves(clock: Clock) -> None:
    fence = Fence(sent=95.0, fence_s=40.0, deadman_s=50.0)
    assert fence.dies_at == 145.0
    clock.now = 140.0  # the worker was stopped before it could say so
    assert fence.dies_at == 145.0
    fence.renew(139.0)
    assert fence.dies_at == 189.0


def test_a_renewal_counts_from_when_it_was_sent_not_from_when_it_was_answered(clock: Clock) -> None:
    fence = Fence(sent=95.0, fence_s=40.0, deadman_s=50.0)
    clock.now = 130.0
    fence.renew(110.0)
    assert fence.left_s == 20.0


def test_an_answer_that_comes_late_does_not_move_the_fence_back(clock: Clock) -> None:
    fence = Fence(sent=95.0, fence_s=40.0, deadman_s=50.0)
    fence.renew(110.0)
    fence.renew(105.0)
    assert fence.left_s == 50.0


def test_a_fence_that_was_passed_holds_again_after_a_late_renewal(clock: Clock) -> None:
    fence = Fence(sent=95.0, fence_s=40.0, deadman_s=50.0)
    clock.now = 140.0
    assert not fence.holds
    fence.renew(139.0)
    assert fence.holds


def test_the_clock_is_the_one_that_counts_through_a_suspended_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 7.0}.__getitem__)
    assert boottime() == 7.0
