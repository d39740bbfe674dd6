"""How long a download waits before it tries again, and when it gives up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

from cli.download.http_headers import retry_after_s
from cli.download.retry import LONGEST_ASKED_S, RetryPolicy, TransientError, with_retries
from cli.errors import UNREACHABLE, Failure

POLICY = RetryPolicy(attempts=5, first_wait_s=2.0)
DATES = ("Fri, 01 Jan 2100 00:00:00 GMT", "Fri, 01 Jan 2100 00:02:00 GMT")


class Pauses(threading.Event):
    """An event that records the pauses instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def run(pauses: Pauses, *errors: TransientError) -> str:
    """Fail with each error in turn, then succeed."""
    left: Iterator[TransientError] = iter(errors)

    def attempt() -> str:
        for error in left:
            raise error
        return "done"

    return with_retries(attempt, what="file", policy=POLICY, stop=pauses)


@pytest.mark.parametrize(
    ("requested_s", "waited_s"), [(7.0, 7.0), (0.0, 0.0), (-5.0, 0.0), (120.0, 120.0)]
)
def test_the_pause_that_a_server_asks_for_is_kept(requested_s: float, waited_s: float) -> None:
    pauses = Pauses()
    assert run(pauses, TransientError("busy", requested_s)) == "done"
    assert pauses.seconds == [waited_s]


def test_a_server_that_asks_for_no_pause_again_and_again_is_not_hurried() -> None:
    pauses = Pauses()
    assert run(pauses, *[TransientError("busy", 0.0)] * 4) == "done"
    assert pauses.seconds[0] == 0.0
    assert pauses.seconds[1:] == sorted(pauses.seconds[1:]) and pauses.seconds[1] >= 2.0


def test_a_server_that_asks_for_too_long_a_pause_is_not_asked_again() -> None:
    pauses = Pauses()
    with pytest.raises(Failure, match="file: busy") as caught:
        run(pauses, TransientError("busy", LONGEST_ASKED_S + 1))
    assert pauses.seconds == []
    assert f"it asks to wait {LONGEST_ASKED_S + 1:.0f} s" in caught.value.hint


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"RateLimit": '"api";r=0;t=120'}, 120.0),
        ({"RateLimit": '"api";r=7;t=120'}, None),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "30, 120"}, 120.0),
        ({"Retry-After": DATES[1], "Date": DATES[0]}, 120.0),
        ({"RateLimit": '"burst";r=5;t=1, "day";t=90;r=0'}, 90.0),
        ({"RateLimit": "limit=100, remaining=0, reset=60"}, 60.0),
        ({"RateLimit": "limit=100, remaining=1, reset=60"}, None),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "60"}, 60.0),
        (
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444920", "Date": DATES[0]},
            120.0,
        ),
        ({"RateLimit": ";;=,=;r=0;t=soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 30}, None),
        ({}, None),
    ],
)
def test_how_long_a_host_asks_to_wait_is_read(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(httpx.Headers(headers)) == wait_s


def test_other_pauses_double_with_some_jitter() -> None:
    pauses = Pauses()
    assert run(pauses, *[TransientError("cut")] * 4) == "done"
    for pause_s, longest_s in zip(pauses.seconds, (2.0, 4.0, 8.0, 16.0), strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


def test_a_host_that_only_fails_is_given_up_with_advice() -> None:
    pauses = Pauses()
    with pytest.raises(Failure, match="file: cut") as caught:
        run(pauses, *[TransientError("cut")] * 5)
    assert caught.value.exit_code == UNREACHABLE
    assert "run the same command again" in caught.value.hint
    assert len(pauses.seconds) == POLICY.attempts - 1


def test_a_stop_ends_the_pause_and_the_retries() -> None:
    pauses = Pauses()
    pauses.set()
    with pytest.raises(Failure, match="file: stopped"):
        run(pauses, TransientError("cut"))
