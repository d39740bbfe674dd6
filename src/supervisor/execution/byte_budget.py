"""How many bytes of finished images this worker may hold while the store takes its time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class ByteBudget:
    """A byte budget in memory, shared by all steps of a worker.

    A reader that cannot get room stops reading, so the runner blocks on its pipe: back pressure
    reaches the place where the bytes are made. While it is full nothing new is claimed. Full is
    where somebody waits, however few bytes are left: no two images are of one size, and the last
    that fitted hardly ever fills it to the byte.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.used_bytes = 0
        self._waiting = 0
        self._room = anyio.Condition()

    @property
    def full(self) -> bool:
        return self._waiting > 0 or self.used_bytes >= self._limit

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Account for `size` bytes. One image always fits into an empty budget."""
        async with self._room:
            while self.used_bytes and self.used_bytes + size > self._limit:
                # Not before: whoever only waits for its turn to ask finds room, and fills nothing.
                self._waiting += 1
                try:
                    await self._room.wait()
                finally:
                    self._waiting -= 1
            self.used_bytes += size
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._room:
                    self.used_bytes -= size
                    self._room.notify_all()
