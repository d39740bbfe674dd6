"""The lease timer: this process dies when its lease ends, whatever its code does.

A timer of the kernel that sends SIGKILL: no thread need ever take the GIL again (a dead man's
switch), and no library can block, ignore or handle it, as some do with SIGALRM. A lease pushes the
moment back. A worker that is stopped or cut off sends none, and the step dies before another worker
can get its lease. A fork inherits no timer; a runner makes its own at GO.

The deadline is a moment, not a span: a frame may lie in the socket for as long as it likes, the
moment stays where the renewal put it. It is one of CLOCK_BOOTTIME, which goes on while the machine
is suspended; `setitimer` knows only clocks that do not, hence the timer of POSIX, through ctypes.
"""

import ctypes
import os
import signal
import time

# Part of glibc, which torch needs: an empty shell around libc since 2.34, the real thing before.
_LIBRARY = "librt.so.1"
_TIMER_ABSTIME = 1  # time.h
_SIGEV_SIGNAL = 0  # asm-generic/siginfo.h
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _Sigevent(ctypes.Structure):
    """`struct sigevent`, 64 bytes: a value, the signal, how to notify."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_char * (64 - ctypes.sizeof(ctypes.c_void_p) - 8)),
    )


class LeaseTimer:
    """The one timer of the process."""

    def __init__(self) -> None:
        self._timer = ctypes.c_void_p()
        event = _Sigevent(signo=signal.SIGKILL, notify=_SIGEV_SIGNAL)
        _call(
            "timer_create",
            time.CLOCK_BOOTTIME,
            ctypes.pointer(event),
            ctypes.pointer(self._timer),
        )

    def arm(self, until: float) -> None:
        """The process dies at `until`, seconds of CLOCK_BOOTTIME, unless armed again before.

        At once if that moment has passed.
        """
        s, ns = divmod(max(1, int(until * _NS)), _NS)  # 0 would disarm it
        when = _Itimerspec(_Timespec(0, 0), _Timespec(s, ns))
        _call("timer_settime", self._timer, _TIMER_ABSTIME, ctypes.pointer(when), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(_LIBRARY, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
