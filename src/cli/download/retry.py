"""How often something is tried again over a network that is not always there."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cli.errors import UNREACHABLE, Failure
from cli.terminal.output import print_note

T = TypeVar("T")

LONGEST_WAIT_S = 60.0
# Less than this is not getting anywhere: a server that hands out a byte per connection would keep
# us for ever.
LEAST_PROGRESS_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Attempts without progress before giving up, and the first wait, doubled each time."""

    attempts: int = 6
    first_wait_s: float = 1.0


class TransientError(Exception):
    """Worth another attempt. `wait_s` is what the server asked for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def with_retries(
    attempt: Callable[[], T],
    *,
    what: str,
    policy: RetryPolicy,
    stop: threading.Event,
    here: Callable[[], int] = lambda: 0,
) -> T:
    """`attempt` until it succeeds. `here` counts the bytes that have come so far.

    Raises `Failure` after as many interruptions in a row without progress as patience allows.
    """
    failures, most = 0, here()
    while True:
        try:
            return attempt()
        except TransientError as error:
            if here() >= most + LEAST_PROGRESS_BYTES:
                failures, most = 0, here()
            failures += 1
            if failures >= policy.attempts:
                raise Failure(
                    f"{what}: {error}",
                    hint="run the same command again; it goes on where this one stopped",
                    exit_code=UNREACHABLE,
                ) from None
            wait_s = _wait_s(policy, failures, error.wait_s)
            if failures > 1:  # a cut that is mended at once is nobody's business
                print_note(f"{what}: {error}; again in {wait_s:.0f} s")
            if stop.wait(wait_s):
                raise Failure(f"{what}: stopped") from None


def _wait_s(policy: RetryPolicy, failures: int, asked_s: float | None) -> float:
    if asked_s is not None:
        return min(max(asked_s, 0.0), LONGEST_WAIT_S)
    longest = policy.first_wait_s * 2.0 ** (failures - 1)
    spread: float = random.uniform(0.5, 1)  # noqa: S311  no secret
    return min(longest, LONGEST_WAIT_S) * spread
