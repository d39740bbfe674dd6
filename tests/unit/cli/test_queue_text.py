"""A job's place in the queue, in words."""

from __future__ import annotations

import pytest

from cli.terminal.queue_text import queue_text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 2, "0 to 2 s"),
        (12, 179, "12 to 179 s"),
        (100, 180, "1 to 3 min"),
        (150, 1300, "2 to 22 min"),
        (3600, 11000, "1 to 4 h"),
    ],
)
def test_times_are_in_the_unit_that_suits_them_and_rounded_outwards(
    low: int, high: int, words: str
) -> None:
    queue = {"position": 3, "exact": True, "starts_in_s": {"low": low, "high": high}}
    assert queue_text(queue) == f"position 3, starts in {words}"


def test_what_is_not_known_is_not_said() -> None:
    assert queue_text({"position": 1000, "exact": False, "starts_in_s": None}) == (
        "position 1000 or more"
    )
