"""What this worker says of itself in the `workers` table, every few seconds."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from uuid import UUID

from shared.db import presence
from shared.db.engine import Database
from shared.settings import Settings
from supervisor.host_models import HostModels
from supervisor.slots import Slot, SlotTable

# A third of `presence.LIVE_S`: one lost beat must not make a living worker look dead.
BEAT_S = 10.0


class Presence:
    """Beats until the worker leaves."""

    def __init__(
        self,
        worker_id: UUID,
        database: Database,
        settings: Settings,
        slots: SlotTable,
        models: HostModels,
    ) -> None:
        self._worker_id = worker_id
        self._database = database
        self._settings = settings
        self._slots = slots
        self._models = models

    async def beat(self) -> None:
        """Look at the registry, then write the whole row: it is small, and always complete."""
        await self._models.refresh()
        worker = presence.Worker(
            id=self._worker_id,
            host=platform.node(),
            version=own_version(),
            queues=self._settings.queues,
            slots=[told(slot) for slot in self._slots],
            models=self._models.checksums,
        )
        await self._database.transaction(
            lambda connection: presence.upsert_worker(connection, worker)
        )

    async def leave(self) -> None:
        """Say good-bye, so that nobody waits for our heartbeat to age."""
        await self._database.transaction(
            lambda connection: presence.leave(connection, self._worker_id)
        )


def told(slot: Slot) -> presence.Slot:
    """A slot as the row shows it: with what its device said last, if it has been asked."""
    seen = slot.seen
    return presence.Slot(
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
