"""Blocking calls in a thread of their own, where the host may have no thread left."""

import errno
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")

NO_THREADS = "this host has no thread left"


async def run_in_thread(work: Callable[[], T], *, limiter: CapacityLimiter | None = None) -> T:
    """What `work` returns. A caller that is cancelled leaves it behind.

    Raises `OSError` where no thread can be started, as for a process: Python raises a
    `RuntimeError`, which would pass for a bug of ours and end what it meets.
    """
    try:
        return await to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    except RuntimeError as error:
        if not is_lack_of_threads(error):
            raise
        raise OSError(errno.EAGAIN, NO_THREADS) from error


def is_lack_of_threads(error: RuntimeError) -> bool:
    """Whether Python raised it because the host, or its limit, has no thread left."""
    return str(error) == "can't start new thread"
