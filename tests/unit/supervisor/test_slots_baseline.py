"""What a slot is held to: little leaks add up, and other users of the device change nothing."""

from __future__ import annotations

import pytest

from supervisor.slots.baseline import Baseline

EPSILON = 64


def life(*steps: tuple[int, int]) -> tuple[Baseline, list[bool]]:
    """Steps as (in use before, in use after); the baseline, and which of them was clean."""
    baseline, clean = Baseline(), []
    for before, after in steps:
        clean.append(after - baseline.update_idle(before) <= EPSILON)
        if clean[-1]:
            baseline.update_verified(after)
    return baseline, clean


def test_what_each_step_leaves_within_the_epsilon_adds_up() -> None:
    assert life((100, 140), (140, 160), (160, 190))[1] == [True, True, False]


def test_what_comes_back_is_forgiven() -> None:
    during = life((100, 160), (160, 110), (110, 160))
    between = life((100, 160), (105, 160), (105, 160))
    assert during[1] == between[1] == [True, True, True]


@pytest.mark.parametrize("seen", [5000, 100])
def test_somebody_who_comes_and_goes_between_steps_changes_nothing(seen: int) -> None:
    baseline, clean = life((100, 100), (seen, seen), (100, 100), (seen, seen + 60))
    assert clean == [True] * 4
    assert baseline.limit_bytes == seen


def test_a_debt_outlives_somebody_who_comes_between_steps() -> None:
    assert life((100, 160), (5160, 5170))[1] == [True, False]


def test_the_mark_falls_with_what_is_in_use() -> None:
    baseline, _ = life((900, 300))
    assert baseline.limit_bytes == 300
    assert life((900, 300), (300, 365))[1] == [True, False]
