"""Leases whose clocks leave no time for what they are there for are refused."""

from __future__ import annotations

import pytest
from tests.support.harness import timings_for_tests

from shared.db.workers import LIVE_S
from shared.timings import LEAST_MARGIN_S, TIMINGS
from supervisor.processes.child import SCAN_MOST_S


def refusal(**changes: float) -> str:
    with pytest.raises(ValueError) as refused:
        timings_for_tests(**changes)
    return str(refused.value)


def test_a_margin_that_is_none_is_refused() -> None:
    for margin_s in (0.001, LEAST_MARGIN_S - 0.001, 0.0, -1.0, float("nan")):
        assert refusal(lease_margin_s=margin_s).startswith("lease_margin_s must be at least 0.2")


def test_a_margin_lasts_until_a_killed_tree_is_seen_to_be_gone() -> None:
    assert timings_for_tests(lease_margin_s=LEAST_MARGIN_S).lease_margin_s == SCAN_MOST_S


def test_a_lease_without_time_to_run_is_refused() -> None:
    assert "lease_s=20 leaves no time to run" in refusal(lease_s=20.0, lease_renew_s=10.0)


def test_a_runners_own_timer_does_not_fire_before_it_is_stopped() -> None:
    assert "lease_margin_s=11" in refusal(lease_margin_s=11.0)


def test_one_lost_heartbeat_does_not_make_a_living_worker_look_dead() -> None:
    assert 2 * TIMINGS.heartbeat_s < LIVE_S
