"""Retries over a network that is away at times, until the host stops making progress."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cli.errors import UNREACHABLE, Failure
from cli.terminal.output import print_note
from shared.retry import backoff_s

T = TypeVar("T")

LONGEST_WAIT_S = 60.0
# A server that asks for more is believed, but nobody watches a command for longer than this.
LONGEST_ASKED_S = 600.0
WORTH_SAYING_S = 5.0
# Less than this is no progress: a server that sends a byte per connection would never end.
LEAST_PROGRESS_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Attempts in a row without progress, and the first pause; each next one is twice as long."""

    attempts: int = 6
    first_wait_s: float = 1.0


DEFAULT_POLICY = RetryPolicy()


class TransientError(Exception):
    """Another attempt may succeed. `wait_s` is the pause that the server asks for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def with_retries(
    attempt: Callable[[], T],
    *,
    what: str,
    policy: RetryPolicy = DEFAULT_POLICY,
    stop: threading.Event | None = None,
    bytes_here: Callable[[], int] = lambda: 0,
) -> T:
    """Repeat `attempt` until it succeeds. `bytes_here` counts what has come so far.

    Waits as long as a server asks. Raises `Failure` after `policy.attempts` transient errors in a
    row without progress, and where a server asks for more than `LONGEST_ASKED_S`.
    """
    failures, most, stop = 0, bytes_here(), stop or threading.Event()
    while True:
        try:
            return attempt()
        except TransientError as error:
            if bytes_here() >= most + LEAST_PROGRESS_BYTES:
                failures, most = 0, bytes_here()
            failures += 1
            wait_s = backoff_s(
                failures, first_s=policy.first_wait_s, most_s=LONGEST_WAIT_S, jitter=0.5
            )
            if error.wait_s is not None:
                # A host that asks for none each time, or whose clock is behind, gets our pauses.
                wait_s = max(error.wait_s, 0.0 if failures == 1 else wait_s)
            if failures >= policy.attempts or wait_s > LONGEST_ASKED_S:
                raise _given_up(what, error) from None
            # The user need not know of a single cut.
            if failures > 1 or wait_s > WORTH_SAYING_S:
                print_note(f"{what}: {error}; again in {wait_s:.0f} s")
            if stop.wait(wait_s):
                raise Failure(f"{what}: stopped") from None


def _given_up(what: str, error: TransientError) -> Failure:
    when = ""
    if error.wait_s:
        moment = datetime.now() + timedelta(seconds=error.wait_s)
        when = f", after {moment:%H:%M:%S}: it asks to wait {error.wait_s:.0f} s"
    return Failure(
        f"{what}: {error}",
        hint=f"run the same command again{when}; it goes on where this one stopped",
        exit_code=UNREACHABLE,
    )
