"""A disk that does not answer: a named pipe, whose reader waits for a writer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 30.0


def answer(fifo: Path) -> None:
    """Let whoever waits for the pipe go on. Waits for nobody itself."""
    os.close(os.open(fifo, os.O_RDWR))


@contextmanager
def answered_at_last(fifo: Path) -> Iterator[None]:
    """However the test fails, no thread waits for the pipe for ever."""
    timer = threading.Timer(2 * DEADLINE_S, answer, [fifo])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        waited_for = os.open(fifo, os.O_RDWR)
        (file := fifo.with_suffix(".file")).touch()
        file.replace(fifo)  # for a thread that opens it only now
        os.close(waited_for)
