"""Blocking calls in a thread of their own, where the host may have no thread left."""

import errno
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
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


class OneAtATime:
    """Blocking calls about one thing, such as a folder on a disk that may not answer.

    A call that is left behind keeps its thread until the disk answers. The next ones do not add a
    thread each: a host would run out of them. Nor does it keep one of those that all calls of the
    loop share. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(1)
        self._turn = anyio.Lock()
        self._busy = False

    async def run(self, work: Callable[[], T], *, within_s: float) -> T:
        """What `work` returns. Raises `OSError` where there is no thread for it, and of that
        `TimeoutError` when it does not return in time, or the one before still has not."""
        with anyio.fail_after(within_s):
            async with self._turn:
                if self._busy:
                    raise TimeoutError("no answer yet")
                return await run_in_thread(partial(self._do, work), limiter=self._limiter)

    def _do(self, work: Callable[[], T]) -> T:
        self._busy = True
        try:
            return work()
        finally:
            self._busy = False


def is_lack_of_threads(error: RuntimeError) -> bool:
    """Whether Python raised it because the host, or its limit, has no thread left."""
    return str(error) == "can't start new thread"
