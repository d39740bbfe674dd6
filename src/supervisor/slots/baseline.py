"""What a slot's device holds when nothing of ours is on it: the mark that every proof is held to.

Reading it anew before each step would forgive a little each time: what a step leaves behind within
the epsilon would be part of the next one's mark, and sixty steps could lose a card. Keeping the
first reading for good would put a slot into quarantine because somebody opened a desktop. So the
mark follows what happens *between* steps, when nobody of ours is there who could have taken it, and
never what happened during one:

    between steps    more is in use than at the last proof   somebody else's: the mark rises with it
                     less                                    it came back: the mark falls to it
    during a step    more                                    ours: the mark stays, so it is a debt
                     less                                    the mark falls to it

All figures are bytes that no listed process accounts for (`unattributed_bytes`), so where process
ids map, other users of the device come and go without touching the mark at all. Where they do not,
what somebody gives back between two steps is taken for ours, and forgives up to an epsilon of debt:
one more reason why such a device must be ours alone.
"""

from __future__ import annotations


class Baseline:
    """The mark of one slot. `limit_bytes` is None until the device was read for the first time."""

    def __init__(self) -> None:
        self.limit_bytes: int | None = None
        self._last = 0  # what was in use when the device was last known to be without us

    def update_idle(self, unattributed_bytes: int) -> int:
        """The device as it is before a step touches it. Returns the mark for that step."""
        if self.limit_bytes is None:
            self.limit_bytes = unattributed_bytes
        else:
            rise = max(0, unattributed_bytes - self._last)
            self.limit_bytes = min(self.limit_bytes + rise, unattributed_bytes)
        self._last = unattributed_bytes
        return self.limit_bytes

    def update_verified(self, unattributed_bytes: int) -> None:
        """The device as it was when a step was proven to be off it."""
        limit_bytes = unattributed_bytes if self.limit_bytes is None else self.limit_bytes
        self.limit_bytes = min(limit_bytes, unattributed_bytes)
        self._last = unattributed_bytes
