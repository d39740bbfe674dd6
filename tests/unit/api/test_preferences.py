"""`Prefer: wait=N` as clients may write it."""

from __future__ import annotations

import pytest

from api.schemas.preferences import MAX_WAIT_S, parse_wait


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([], None),
        (["wait=30"], 30),
        (["Wait=30"], 30),
        (['respond-async, wait="30"'], 30),
        (["respond-async; x=1 , wait = 30; y"], 30),
        (["respond-async", "wait=30"], 30),
        (["wait=30, wait=5"], 30),  # the RFC: the first one counts
        (['note="a, wait=5"'], None),
        (["wait=0"], 0),
        (["wait=3600"], MAX_WAIT_S),
        (["wait=-1"], None),
        (["wait=soon"], None),
        (["wait"], None),
        (["wait=" + "9" * 5000], None),
        (["waiting=5"], None),
    ],
)
def test_a_wait_is_found_bounded_or_ignored(headers: list[str], wait_s: int | None) -> None:
    assert parse_wait(headers) == wait_s
