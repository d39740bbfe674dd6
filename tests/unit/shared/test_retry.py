"""Pauses, when they end, and the two loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice, repeat

import anyio
import pytest

from shared.retry import backoff, backoff_s, retry, retry_sync, within

Loop = Callable[..., str]


class Attempts:
    """Fails as often as said, then answers. Keeps what was waited and logged."""

    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.failures, self.error = failures, error
        self.made = 0
        self.slept: list[float] = []

    def __call__(self) -> str:
        self.made += 1
        if self.made <= self.failures:
            raise self.error(f"failure {self.made}")
        return "done"


def run_async(
    attempts: Attempts,
    pauses: Iterable[float],
    on_failure: Callable[[ConnectionError, float], float | None] = lambda _error, _pause_s: None,
) -> str:
    async def attempt() -> str:
        return attempts()

    async def sleep(seconds: float) -> None:
        attempts.slept.append(seconds)

    async def main() -> str:
        return await retry(
            attempt, on=ConnectionError, pauses=pauses, on_failure=on_failure, sleep=sleep
        )

    return anyio.run(main)


def run_sync(
    attempts: Attempts,
    pauses: Iterable[float],
    on_failure: Callable[[ConnectionError, float], float | None] = lambda _error, _pause_s: None,
) -> str:
    return retry_sync(
        attempts,
        on=ConnectionError,
        pauses=pauses,
        on_failure=on_failure,
        sleep=attempts.slept.append,
    )


@pytest.fixture(params=[run_async, run_sync], ids=["async", "sync"])
def run(request: pytest.FixtureRequest) -> Loop:
    loop: Loop = request.param
    return loop


def test_the_first_success_is_returned_after_the_pauses_before_it(run: Loop) -> None:
    attempts = Attempts(failures=2)
    assert run(attempts, repeat(0.5)) == "done"
    assert (attempts.made, attempts.slept) == (3, [0.5, 0.5])


def test_the_last_error_is_raised_when_the_pauses_end(run: Loop) -> None:
    attempts = Attempts(failures=9)
    with pytest.raises(ConnectionError, match="failure 3"):
        run(attempts, [1.0, 2.0])
    assert (attempts.made, attempts.slept) == (3, [1.0, 2.0])


def test_another_error_is_not_retried(run: Loop) -> None:
    attempts = Attempts(failures=1, error=ValueError)
    with pytest.raises(ValueError, match="failure 1"):
        run(attempts, repeat(0.5))
    assert attempts.slept == []


def test_the_callback_sees_each_failure_and_may_lengthen_the_pause(run: Loop) -> None:
    attempts, seen = Attempts(failures=2), []

    def on_failure(error: ConnectionError, pause_s: float) -> float | None:
        seen.append((str(error), pause_s))
        return 7.0 if len(seen) == 2 else None

    run(attempts, repeat(0.5), on_failure)
    assert seen == [("failure 1", 0.5), ("failure 2", 0.5)]
    assert attempts.slept == [0.5, 7.0]


def test_the_callback_ends_the_retries_by_raising(run: Loop) -> None:
    def on_failure(error: ConnectionError, pause_s: float) -> float | None:
        raise error

    attempts = Attempts(failures=9)
    with pytest.raises(ConnectionError, match="failure 1"):
        run(attempts, repeat(0.5), on_failure)
    assert attempts.slept == []


def test_pauses_double_up_to_the_longest() -> None:
    assert list(islice(backoff(first_s=0.5, most_s=3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff_s(100_000, first_s=0.5, most_s=3.0) == 3.0


def test_jitter_shortens_a_pause_by_up_to_its_share() -> None:
    half = [backoff_s(3, first_s=1.0, most_s=9.0, jitter=0.5) for _ in range(500)]
    assert all(2.0 <= pause_s <= 4.0 for pause_s in half)
    full = [backoff_s(3, first_s=1.0, most_s=9.0, jitter=1.0) for _ in range(500)]
    assert min(full) < 0.5
    assert max(full) > 3.5


def test_time_is_counted_from_the_first_pause() -> None:
    now = 100.0
    pauses = within(10.0, repeat(1.0), clock=lambda: now)
    now = 500.0  # the iterator was made long before the first failure
    assert next(pauses) == 1.0
    now = 510.0
    assert next(pauses) == 1.0
    now = 510.1
    assert next(pauses, None) is None
