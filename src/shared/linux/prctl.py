"""What a process asks of the Linux kernel about itself and its children (`prctl`)."""

import ctypes
import os

# linux/prctl.h
PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22

# Made once: ctypes builds a class for each library that it opens.
libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, instead of init."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_from_others() -> None:
    """Make our memory and `/proc` entries unreadable to processes of the same user.

    Our environment block of the start still lies in our memory, with the secrets that were taken
    out of `os.environ`; a runner must not be able to read it there. A fork stays hidden, a program
    that is executed does not.
    """
    prctl(_PR_SET_DUMPABLE, 0)


def prctl(option: int, value: int, address: int = 0) -> None:
    """Set one option of this process. Raises `OSError` when the kernel refuses it."""
    # A variadic function does not widen an int, and the kernel reads whole registers.
    arguments = map(ctypes.c_ulong, (value, address, 0, 0))
    if libc.prctl(option, *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
