"""What a slot's device holds when none of our processes is on it: the limit for every proof.

A new reading before each step would forgive a little each time: what a step leaves within the
epsilon would be part of the next step's limit, and sixty steps could lose a card. The first reading
for good would quarantine a slot because a user opened a desktop. So the limit follows changes
*between* steps, when none of our processes can have caused them, and no rise during a step:

    between steps    more is in use than at the last proof   another user's: the limit rises with it
                     less                                    it came back: the limit falls to it
    during a step    more                                    ours: the limit stays, it is a debt
                     less                                    the limit falls to it

All figures are bytes that no listed process accounts for (`unattributed_bytes`). So where process
ids map, other users of the device come and go without a change of the limit. Where they do not,
memory that others free between two steps counts as ours, and forgives up to an epsilon of debt:
one more reason why such a device must be ours alone.
"""


class Baseline:
    """The limit of one slot; `limit_bytes` is None until the device is read for the first time."""

    def __init__(self) -> None:
        self.limit_bytes: int | None = None
        self._last_bytes = 0  # in use when none of our processes was last on the device

    def update_idle(self, unattributed_bytes: int) -> int:
        """Take a reading from before a step uses the device; return the limit for that step."""
        if self.limit_bytes is None:
            self.limit_bytes = unattributed_bytes
        else:
            rise = max(0, unattributed_bytes - self._last_bytes)
            self.limit_bytes = min(self.limit_bytes + rise, unattributed_bytes)
        self._last_bytes = unattributed_bytes
        return self.limit_bytes

    def update_verified(self, unattributed_bytes: int) -> None:
        """Take the reading that proved that a step has left the device."""
        if self.limit_bytes is None or unattributed_bytes < self.limit_bytes:
            self.limit_bytes = unattributed_bytes
        self._last_bytes = unattributed_bytes
