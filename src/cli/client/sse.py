"""A job's events in the background, while a command does something else."""

import queue
import threading
from collections.abc import Callable, Iterator

from cli.client.http import Event

_TICK_S = 0.2


def read_in_background(source: Iterator[Event], tick: Callable[[], None]) -> Iterator[Event]:
    """The same events, read by a thread, while the caller's thread runs `tick` every 0.2 s.

    The thread is a daemon: when the caller leaves, it may sit in a read that never returns.
    """
    box: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for event in source:
                box.put(event)
            box.put(None)
        except Exception as error:
            box.put(error)

    threading.Thread(target=read, name="events", daemon=True).start()
    while True:
        tick()
        try:
            item = box.get(timeout=_TICK_S)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
