"""This worker's row in the `workers` table, written every few seconds.

And within a second or so after a slot has changed, for those who look at the workers.
"""

import logging
import math
import platform
from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from uuid import UUID

import anyio

from shared.db import workers
from shared.db.engine import Database
from shared.states import DEFAULT_QUEUE
from shared.users import Serves
from supervisor.devices.device import UNNAMED_GPU
from supervisor.membership.local_models import LocalModels
from supervisor.slots.table import Slot, SlotTable

log = logging.getLogger(__name__)


class Presence:
    """Writes the worker's row. No other worker may own one of its `gpus`."""

    def __init__(
        self,
        worker_id: UUID,
        database: Database,
        slots: SlotTable,
        models: LocalModels,
        warm: Callable[[], Collection[UUID]],
        serves: Serves,
    ) -> None:
        """`warm` are the models that are loaded on this host now."""
        self._worker_id = worker_id
        self._database = database
        self._slots = slots
        self._models = models
        self._warm = warm
        self._serves = serves
        self._heartbeat_at = -math.inf  # of the loop's clock
        self._written: object = None
        self.gpus = frozenset(
            slot.id
            for slot in slots
            if slot.device.kind == "cuda" and not slot.id.startswith(UNNAMED_GPU)
        )

    async def register(self) -> list[workers.Worker]:
        """Write the first row, unless live rows show one of our GPUs; return those."""
        await self._models.refresh()
        return await self._database.transaction(
            workers.register_exclusive, self._row(), devices=self.gpus
        )

    async def refresh(self, *, every_s: float) -> None:
        """A heartbeat when the last one is `every_s` old; else the row, if a slot or a model has
        changed.

        One task calls it again and again, so that no older row is written after a newer one.
        """
        if anyio.current_time() >= self._heartbeat_at + every_s:
            await self.heartbeat()
            self._heartbeat_at = anyio.current_time()
        elif self._written != self._shown():
            await self._write()

    async def heartbeat(self) -> None:
        """Write the whole row: it is small, and always complete.

        The models are read from the disk before the first one. Later they are a task of their own
        (`LocalModels.refresh`): no heart stops because a disk does not answer.
        """
        if not self._models.known:
            await self._models.refresh()
        await self._write()
        if self.gpus:
            await self._report_shared_gpus()

    async def _write(self) -> None:
        written = self._shown()
        await self._database.transaction(workers.upsert, self._row())
        self._written = written

    def _shown(self) -> object:
        return [(slot.state, slot.job_id) for slot in self._slots], self._models.checksums

    async def _report_shared_gpus(self) -> None:
        """Log workers that registered while our heartbeat stood still, and cannot see our locks."""
        others = await self._database.transaction(workers.owners_of, self.gpus, but=self._worker_id)
        for other in others:
            log.error("%s as well: neither can prove its memory clean", self.shared_with(other))

    def shared_with(self, other: workers.Worker) -> str:
        """Which of our GPUs another worker shows, as text."""
        gpu = next(slot.id for slot in other.slots if slot.id in self.gpus)
        return f"GPU {gpu} is served by worker {other.id} on host {other.host}"

    async def deregister(self, worker_id: UUID) -> None:
        """Delete our row, or a dead worker's: no worker waits for its heartbeat to age."""
        await self._database.transaction(workers.deregister, worker_id)

    def _row(self) -> workers.Worker:
        return workers.Worker(
            id=self._worker_id,
            host=platform.node(),
            version=own_version(),
            queues=(DEFAULT_QUEUE,),
            slots=[slot_row(slot) for slot in self._slots],
            models=self._models.checksums,
            warm=self._warm(),
            serves=self._serves,
        )


def slot_row(slot: Slot) -> workers.Slot:
    """A slot as the row shows it, with its device's last reading if there is one."""
    reading = slot.last_reading
    return workers.Slot(
        id=slot.id,
        device=slot.device.kind,
        device_class=slot.device.name,
        capacity_bytes=slot.device.capacity_bytes,
        state=slot.state,
        job_id=slot.job_id,
        free_bytes=None if reading is None else reading.free_bytes,
        holders={str(pid): held for pid, held in reading.holders.items()} if reading else {},
    )


@cache
def own_version() -> str:
    try:
        return version("dreamforge")
    except PackageNotFoundError:  # run from a bare source tree
        return "unknown"
