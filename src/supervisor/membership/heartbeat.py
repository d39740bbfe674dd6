"""What this worker says of itself in the `workers` table, every few seconds."""

from __future__ import annotations

import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from uuid import UUID

from shared.db import workers
from shared.db.engine import Database
from shared.states import DEFAULT_QUEUE
from supervisor.devices.device import UNNAMED_GPU
from supervisor.membership.local_models import LocalModels
from supervisor.slots.table import Slot, SlotTable

log = logging.getLogger(__name__)


class Presence:
    """Beats until the worker leaves."""

    def __init__(
        self,
        worker_id: UUID,
        database: Database,
        slots: SlotTable,
        models: LocalModels,
    ) -> None:
        self._worker_id = worker_id
        self._database = database
        self._slots = slots
        self._models = models

        self.gpus = frozenset(
            slot.id
            for slot in slots
            if slot.device.kind == "cuda" and not slot.id.startswith(UNNAMED_GPU)
        )

    async def register(self) -> list[workers.Worker]:
        """Write the first row if no live one of another worker shows a GPU of ours; else those."""
        await self._models.refresh()
        worker = self._row()
        return await self._database.transaction(
            lambda connection: workers.enter(connection, worker, alone_on=self.gpus)
        )

    async def heartbeat(self) -> None:
        """Look at the registry, then write the whole row: it is small, and always complete."""
        await self._models.refresh()
        worker = self._row()
        await self._database.transaction(
            lambda connection: workers.upsert_worker(connection, worker)
        )
        if self.gpus:
            await self._look_for_others()

    async def _look_for_others(self) -> None:
        """One that entered while our own heartbeat stood still, and cannot see our locks."""
        others = await self._database.transaction(
            lambda connection: workers.owners_of(connection, self.gpus, but=self._worker_id)
        )
        for other in others:
            log.error("%s as well: neither can prove its memory clean", self.shared_with(other))

    def shared_with(self, other: workers.Worker) -> str:
        """Which GPU of ours another worker shows, in words."""
        gpu = next(slot.id for slot in other.slots if slot.id in self.gpus)
        return f"GPU {gpu} is served by worker {other.id} on host {other.host}"

    async def deregister_dead(self, other: workers.Worker) -> None:
        """Say good-bye for a worker that died without one."""
        await self._database.transaction(lambda connection: workers.leave(connection, other.id))

    async def deregister(self) -> None:
        """Say good-bye, so that nobody waits for our heartbeat to age."""
        await self._database.transaction(
            lambda connection: workers.leave(connection, self._worker_id)
        )

    def _row(self) -> workers.Worker:
        return workers.Worker(
            id=self._worker_id,
            host=platform.node(),
            version=own_version(),
            queues=(DEFAULT_QUEUE,),
            slots=[slot_row(slot) for slot in self._slots],
            models=self._models.checksums,
        )


def slot_row(slot: Slot) -> workers.Slot:
    """A slot as the row shows it: with what its device said last, if it has been asked."""
    seen = slot.last_reading
    return workers.Slot(
        id=slot.id,
        device=slot.device.kind,
        device_class=slot.device.name,
        capacity_bytes=slot.device.capacity_bytes,
        state=slot.state,
        free_bytes=None if seen is None else seen.free_bytes,
        holders={} if seen is None else {str(pid): held for pid, held in seen.holders.items()},
    )


def own_version() -> str:
    try:
        return version("dreamforge")
    except PackageNotFoundError:  # run from a bare source tree
        return "unknown"
