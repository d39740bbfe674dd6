"""Requests for previews: the worker sends one while a client looks, and the job may answer it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Of the time since sampling began, at most this share goes into previews.
SHARE = 0.02
# Nobody knows what the first one takes. After so long it is within the share where it takes 20 ms,
# and a job that is over earlier shows its pictures about as soon.
FIRST_AFTER_S = 1.0


class PreviewRequests:
    """`ask` belongs to the thread that listens, the rest to the one that runs the job."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._began_s = math.inf  # of the first call of `due`
        self._spent_s = 0.0
        self._last_s = 0.0

    def ask(self) -> None:
        self._asked.set()

    def due(self) -> bool:
        """Whether one is asked for, and has been paid for. To be called after each step: from the
        first call on the time counts."""
        now_s = time.monotonic()
        self._began_s = min(self._began_s, now_s)
        sampled_s = now_s - self._began_s
        return (
            self._asked.is_set()
            and sampled_s >= FIRST_AFTER_S
            and self._spent_s + self._last_s <= SHARE * sampled_s
        )

    def give_up(self) -> None:
        """None can be made of this step."""
        self._spent_s = math.inf

    @contextmanager
    def making(self) -> Iterator[None]:
        """Around the making of the one that is asked for: the next one is expected to take as
        long."""
        self._asked.clear()
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._last_s = time.monotonic() - began_s
            self._spent_s += self._last_s
