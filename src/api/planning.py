"""What a create is planned with: the registry of models, and the live workers.

Both are kept from one create to the next, and neither can make a wrong job:

* The registry has a version, and the statement that inserts a job inserts nothing where it has
  another one by then. So a kept registry is never too old, whatever its age, and a model that was
  just registered, changed or disabled counts from the next request on.
* Workers are read again after a second. A refusal because of them reads them first
  (`api.admission.create`). The other way round, a job that is accepted because of a worker that
  left within the second is one that was created a second earlier: it waits.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from shared.db.models import Registry
from shared.db.workers import Worker

FRESH_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Planning:
    """What one create is planned with."""

    registry: Registry
    live: Sequence[Worker]


class PlanningCache:
    """Keeps both for the creates of one process. `clock` counts seconds."""

    def __init__(
        self,
        read_workers: Callable[[], Awaitable[Sequence[Worker]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_workers = read_workers
        self._clock = clock
        self._kept: Planning | None = None
        self._read_at = 0.0
        self._reading = anyio.Lock()

    async def get(self) -> Planning | None:
        """None before the first `put`. Raises `InfraUnavailable`."""
        if self._kept is None or self._is_fresh():
            return self._kept
        async with self._reading:  # one of the creates that wait reads for all
            if not self._is_fresh():
                live = await self._read_workers()
                self.put(Planning(registry=self._kept.registry, live=live))
        return self._kept

    def put(self, planning: Planning) -> None:
        """Keep what was just read."""
        self._kept, self._read_at = planning, self._clock()

    def _is_fresh(self) -> bool:
        return self._clock() - self._read_at < FRESH_S
