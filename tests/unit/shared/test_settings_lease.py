"""Leases whose clocks leave no time for what they are there for are refused, and the message says
which setting to change."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.support.harness import settings_for_tests

from shared.settings import LEAST_MARGIN_S, describe
from supervisor.processes.child import _SCAN_MOST_S


def refusal(**changes: float) -> str:
    with pytest.raises(ValidationError) as refused:
        settings_for_tests(**changes)
    (line,) = describe(refused.value)
    return line


def test_a_margin_that_is_none_is_refused() -> None:
    for margin_s in (0.001, LEAST_MARGIN_S - 0.001, 0.0, -1.0, float("nan")):
        line = refusal(lease_margin_s=margin_s)
        assert line.startswith("DF_LEASE_MARGIN_S")
        assert "at least 0.2 s" in line


def test_a_margin_lasts_until_a_killed_tree_is_seen_to_be_gone() -> None:
    assert settings_for_tests(lease_margin_s=LEAST_MARGIN_S).lease_margin_s == _SCAN_MOST_S


def test_a_lease_without_time_to_run_is_refused() -> None:
    assert "DF_LEASE_S=20 leaves no time to run" in refusal(lease_s=20.0, lease_renew_s=10.0)


def test_a_runners_own_timer_does_not_fire_before_it_is_stopped() -> None:
    assert "DF_LEASE_MARGIN_S=11" in refusal(lease_margin_s=11.0)
