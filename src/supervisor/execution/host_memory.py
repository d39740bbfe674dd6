"""What the steps on the CPU have been promised of the host's memory, which their slots share.

A step takes its memory by and by. Until it has, the kernel still calls that memory free, and a step
in another slot that begins now would be promised it once more.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Promise:
    need_bytes: int
    taken_bytes: Callable[[], int]


class HostMemory:
    """One promise for each slot at most. Only the supervisor's thread uses it."""

    def __init__(self) -> None:
        self._promises: dict[str, _Promise] = {}

    def promise(self, slot: str, need_bytes: int, taken_bytes: Callable[[], int]) -> None:
        """The slot's step may take so much; `taken_bytes` tells how much of it is in use by now."""
        self._promises[slot] = _Promise(need_bytes, taken_bytes)

    def release(self, slot: str) -> None:
        """The slot's step takes no more."""
        self._promises.pop(slot, None)

    def untaken_bytes(self, besides: str) -> int:
        """What the steps of all slots but one have been promised and have not taken yet."""
        return sum(
            max(0, promise.need_bytes - promise.taken_bytes())
            for slot, promise in self._promises.items()
            if slot != besides
        )
