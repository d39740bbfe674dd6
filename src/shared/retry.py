"""Retries: the pauses between attempts, and the loops that wait them out.

Pauses are an iterator of seconds. It is endless, or its end is the end of the retries: cut it by
number (`itertools.islice`) or by time (`within`). Equal pauses are `itertools.repeat(0.5)`.
A loop that starts afresh after progress makes a new iterator, and calls `next` on it itself.
"""

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import count
from typing import TypeVar

import anyio

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def backoff_s(failures: int, *, first_s: float, most_s: float, jitter: float = 0.0) -> float:
    """The pause after so many failures in a row: it doubles from `first_s` to `most_s`.

    `jitter` is the share of it that is drawn at random. With 1 ("full jitter") clients that failed
    together do not return together.
    """
    doublings = min(max(failures - 1, 0), 1000)  # a float holds no more
    pause_s = min(most_s, first_s * 2.0**doublings)
    return pause_s * random.uniform(1.0 - jitter, 1.0)  # noqa: S311 - jitter


def backoff(*, first_s: float, most_s: float, jitter: float = 0.0) -> Iterator[float]:
    """The endless pauses of `backoff_s`."""
    for failures in count(1):
        yield backoff_s(failures, first_s=first_s, most_s=most_s, jitter=jitter)


def within(
    seconds: float, pauses: Iterable[float], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """The pauses that begin within `seconds` of the first one."""
    deadline = clock() + seconds
    for pause_s in pauses:
        if clock() > deadline:
            return
        yield pause_s


async def retry(
    attempt: Callable[[], Awaitable[T]],
    *,
    on: type[E] | tuple[type[E], ...],
    pauses: Iterable[float],
    on_failure: Callable[[E, float], float | None] = lambda _error, _pause_s: None,
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
) -> T:
    """The value of the first attempt that does not raise `on`; the last one's error is raised.

    `on_failure` gets the error and the pause that follows, to log them. A pause that it returns is
    kept instead (a server's `Retry-After`); an error that it raises ends the retries.
    """
    for pause_s in pauses:
        try:
            return await attempt()
        except on as error:
            instead_s = on_failure(error, pause_s)
        await sleep(pause_s if instead_s is None else instead_s)
    return await attempt()


def retry_sync(
    attempt: Callable[[], T],
    *,
    on: type[E] | tuple[type[E], ...],
    pauses: Iterable[float],
    on_failure: Callable[[E, float], float | None] = lambda _error, _pause_s: None,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """The same as `retry`, for code without an event loop."""
    for pause_s in pauses:
        try:
            return attempt()
        except on as error:
            instead_s = on_failure(error, pause_s)
        sleep(pause_s if instead_s is None else instead_s)
    return attempt()
