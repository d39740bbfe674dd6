"""Ctrl-C, SIGTERM and SIGHUP, at any moment, without losing a child.

Outside `defer()` the first signal raises `Interrupt` in the main thread: a wait for a socket or a
poll ends at once. Inside `defer()` (a child is being spawned and recorded, or all are being
stopped) it is only counted, and raised on the way out. Only the first one ever raises: the next
must not cut short the unwinding that it started. The others are counted, and the process manager
reads the count to skip its grace periods.

If all this fails, PR_SET_PDEATHSIG (exec_child.py) ends the children with us.
"""

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
    def __init__(self) -> None:
        self.received: list[int] = []
        self.deferrals = 0
        self.raised = False


_state = _State()


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    _state.received.append(signum)
    _raise_first()


def _raise_first() -> None:
    if _state.received and not _state.deferrals and not _state.raised:
        _state.raised = True
        raise Interrupt(_state.received[0])


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
    _state.deferrals += 1
    try:
        yield
    finally:
        _state.deferrals -= 1
        _raise_first()


def count_received() -> int:
    """How many signals came since `handle` began."""
    return len(_state.received)
