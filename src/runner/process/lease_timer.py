"""The dead-man timer: this process dies when its lease ends, whatever any code of ours does.

SIGALRM with its *default* action, which the kernel carries out even if no thread ever takes the GIL
again. A lease pushes it back; a worker that is stopped or cut off sends none, and the step dies
before its lease can be given to somebody else.

The deadline is a moment, not a span: a frame may lie in the socket for as long as it likes, the
moment stays where the renewal put it. It is one of CLOCK_BOOTTIME, which goes on while the machine
is suspended; `setitimer` knows only clocks that do not, hence the timer of POSIX, through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import time
from functools import cache

# Part of glibc, which torch needs: an empty shell around libc since 2.34, the real thing before.
_LIBRARY = "librt.so.1"
_TIMER_ABSTIME = 1  # time.h
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def arm_lease_timer(until: float) -> None:
    """The process dies at `until`, seconds of CLOCK_BOOTTIME, unless armed again before.

    At once if that moment has passed.
    """
    s, ns = divmod(max(1, int(until * _NS)), _NS)  # 0 would disarm it
    when = _Itimerspec(_Timespec(0, 0), _Timespec(s, ns))
    call_librt("timer_settime", process_timer(), _TIMER_ABSTIME, ctypes.byref(when), None)


@cache
def process_timer() -> ctypes.c_void_p:
    """The process's one timer. Without a `sigevent` it sends SIGALRM."""
    made = ctypes.c_void_p()
    call_librt("timer_create", time.CLOCK_BOOTTIME, None, ctypes.byref(made))
    return made


def call_librt(name: str, *arguments: object) -> None:
    """Call a function of librt; raises `OSError` when it fails."""
    if getattr(ctypes.CDLL(_LIBRARY, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
