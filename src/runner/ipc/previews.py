"""Requests for previews: the worker sends one while a client looks, and the job may answer it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Of the time of sampling, at most this share goes into previews.
SHARE = 0.02


class PreviewRequests:
    """`ask` belongs to the thread that listens, the rest to the one that runs the job."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._not_before_s = 0.0

    def ask(self) -> None:
        self._asked.set()

    def due(self) -> bool:
        """Whether a preview is asked for, and the last one has been paid for."""
        return self._asked.is_set() and time.monotonic() >= self._not_before_s

    def give_up(self) -> None:
        """None can be made of this step."""
        self._not_before_s = math.inf

    @contextmanager
    def making(self) -> Iterator[None]:
        """Around the making of the one that is asked for: the longer it takes, the longer until
        the next."""
        self._asked.clear()
        began_s = time.monotonic()
        try:
            yield
        finally:
            ended_s = time.monotonic()
            next_s = ended_s + (ended_s - began_s) / SHARE
            self._not_before_s = max(self._not_before_s, next_s)
