"""The local end of a lease: until when this worker may believe that it owns a step."""

from shared.linux.clock import boottime


class Fence:
    """How long this worker may believe that it owns the step.

    Counted from the moment at which the last successful renewal was *sent*. The server gave the
    lease some time after that, so our end is never later than its end.
    """

    def __init__(self, *, sent: float, fence_s: float, deadman_s: float) -> None:
        self._sent = sent
        self._fence_s = fence_s
        self._deadman_s = deadman_s

    def renew(self, sent: float) -> None:
        self._sent = max(self._sent, sent)

    @property
    def left_s(self) -> float:
        """Seconds until a runner must be stopped; 0 or less when it must be now."""
        return self._sent + self._fence_s - boottime()

    @property
    def dies_at(self) -> float:
        """The boot time at which a runner kills itself; GO and each renewal send it."""
        return self._sent + self._deadman_s

    @property
    def holds(self) -> bool:
        return self.left_s > 0
