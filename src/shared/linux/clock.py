"""A clock that no suspended machine stops.

CLOCK_BOOTTIME counts through a suspended machine, which CLOCK_MONOTONIC does not: a laptop that
slept for an hour must not think that its lease is fresh.
"""

import time


def boottime() -> float:
    """Seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
