"""The local end of a lease: how long this worker may believe that it owns a step.

CLOCK_BOOTTIME counts through a suspended machine, which CLOCK_MONOTONIC does not: a laptop that
slept for an hour must not think that its lease is fresh.
"""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """Counted from the moment at which the last successful renewal was *sent*.

    The server gave the lease some time after that, so our end is never later than its end.
    """

    def __init__(self, *, sent: float, fence_s: float, deadman_s: float) -> None:
        self._sent = sent
        self._fence_s = fence_s
        self._deadman_s = deadman_s

    def renewed(self, sent: float) -> None:
        self._sent = max(self._sent, sent)

    @property
    def left_s(self) -> float:
        """Seconds until a runner must be stopped; 0 or less when it must be now."""
        return self._sent + self._fence_s - boottime()

    @property
    def dies_at(self) -> float:
        """The boot time at which a runner kills itself, told to it with GO and each renewal."""
        return self._sent + self._deadman_s

    @property
    def holds(self) -> bool:
        return self.left_s > 0
