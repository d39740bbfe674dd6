"""What is a trace context, and what is only something in its header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.telemetry.traceparent import Traceparent, incoming, parse

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_valid_one_is_read_and_written_again() -> None:
    assert parse(GOOD) == Traceparent(trace_id=TRACE, span_id=SPAN, sampled=True)
    assert str(parse(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)]
)
def test_only_the_last_bit_of_the_flags_says_sampled(flags: str, sampled: bool) -> None:
    found = parse(f"00-{TRACE}-{SPAN}-{flags}")
    assert found is not None and found.sampled is sampled


def test_a_later_version_may_say_more_than_we_know() -> None:
    assert parse(f"01-{TRACE}-{SPAN}-01-more") == parse(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f" {GOOD}",
        f"{GOOD}\n",
    ],
)
def test_what_is_not_valid_says_nothing(text: str | None) -> None:
    assert parse(text) is None


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    assert parse(text) is None or parse(str(parse(text))) == parse(text)


def test_two_headers_say_nothing_and_spaces_around_one_do_not_matter() -> None:
    assert incoming([GOOD, GOOD]) is None
    assert incoming([]) is None
    assert incoming([f" {GOOD}\t"]) == parse(GOOD)
