"""Ctrl-C, SIGTERM and SIGHUP, at any moment, without losing a child.

Outside `defer()` the first signal raises `Interrupt` in the main thread: a wait for a socket or a
poll ends at once. Inside `defer()` (a child is being spawned and recorded, or all are being
stopped) it is only counted, and raised on the way out. Only the first one ever raises: the next
must not cut short the unwinding that it started. The others are counted, and the process manager
reads the count to skip its grace periods.

If all this fails, PR_SET_PDEATHSIG (exec_child.py) ends the children with us.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt(BaseException):
    """We were asked to end. No `Exception`, so that no handler of errors swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        return 128 + self.signum


class _State:
    depth = 0
    seen = 0
    pending: int | None = None
    raised = False


_state = _State()


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    _state.seen += 1
    if _state.raised:
        return
    if _state.depth:
        _state.pending = _state.pending or signum
        return
    _state.raised = True
    raise Interrupt(signum)


@contextmanager
def handle() -> Iterator[None]:
    """Handle the signals for the length of a command; main thread only."""
    global _state
    _state = _State()
    before = {signum: signal.signal(signum, _on_signal) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def defer() -> Iterator[None]:
    """Postpone signals to the end of the block."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        _raise_pending()


def _raise_pending() -> None:
    if _state.pending is not None and not _state.depth and not _state.raised:
        _state.raised = True
        raise Interrupt(_state.pending)


def count_received() -> int:
    """How many signals came since `handle` began."""
    return _state.seen
