"""How many bytes of images a worker may keep in memory while the store takes its time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class ByteBudget:
    """One budget for all steps of a worker.

    A reader that gets no room stops reading, so its runner blocks on the pipe: the pressure reaches
    the place where the bytes are made. While the budget is full, the worker claims nothing. It is
    full while a task waits for room, however few bytes are left: images differ in size, so the last
    one that fits hardly ever fills it to the byte.
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
        """Count `size` bytes as used. One image always fits into an empty budget."""
        async with self._room:
            while self.used_bytes and self.used_bytes + size > self._limit:
                # Counted here only: a task that waits for the lock above may yet find room.
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
