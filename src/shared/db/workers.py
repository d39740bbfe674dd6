"""The workers' table: each worker writes its row every few seconds.

The API reads it to refuse at once what no live worker could hold, and to say how much the largest
slot has. A worker that was killed counts as gone once its heartbeat is `LIVE_S` old.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import read, values_of, workers
from shared.states import Priority
from shared.users import Serves

LIVE_S = 30.0
# Any fixed number: it names "a worker registers" among the advisory locks of this database.
_REGISTERING = 0x4446454E


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A device that takes one step at a time.

    `device` is `cpu` or `cuda`, as on a step; `device_class` names the hardware. `free_bytes` is
    None until its worker has looked; `holders` maps process ids to the bytes that they hold.
    `job_id` is the job whose step holds the slot.
    """

    id: str
    device: str
    device_class: str
    capacity_bytes: int
    state: str
    free_bytes: int | None = None
    holders: Mapping[str, int] = field(default_factory=dict)
    job_id: UUID | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """`models` maps the id of each model verified on that host to its checkpoint's sha256; those
    in `warm` are loaded there, so that a step begins without the load. `serves` is what its
    operator keeps it for (`DF_SERVES`)."""

    id: UUID
    host: str
    version: str
    queues: Sequence[str]
    slots: Sequence[Slot]
    models: Mapping[UUID, str]
    warm: Collection[UUID] = frozenset()
    serves: Serves = field(default_factory=Serves)
    started_at: datetime | None = None
    heartbeat_at: datetime | None = None

    def has_model(self, model_id: UUID, checkpoint_sha256: str | None) -> bool:
        """Whether its host has a verified copy with these weights."""
        return self.models.get(model_id) == checkpoint_sha256


async def upsert(connection: AsyncConnection, worker: Worker) -> None:
    """Write all of a worker's row, its heartbeat included."""
    row = values_of(
        workers,
        worker,
        queues=list(worker.queues),
        slots=[_slot_to_json(slot) for slot in worker.slots],
        models=[
            {
                "id": str(model_id),
                "checkpoint_sha256": checksum,
                "warm": model_id in worker.warm,
            }
            for model_id, checksum in worker.models.items()
        ],
        serves=asdict(worker.serves),
        heartbeat_at=func.clock_timestamp(),
    )
    del row["started_at"]  # PostgreSQL's time of the first write
    await connection.execute(
        insert(workers).values(row).on_conflict_do_update(index_elements=[workers.c.id], set_=row)
    )


async def register_exclusive(
    connection: AsyncConnection, worker: Worker, *, devices: Collection[str]
) -> list[Worker]:
    """Write a worker's first row, unless live ones show one of these devices; then return those.

    One worker at a time, so that of two that start together the second sees the first.
    """
    await connection.execute(select(func.pg_advisory_xact_lock(_REGISTERING)))
    owners = await owners_of(connection, devices, but=worker.id)
    if not owners:
        await upsert(connection, worker)
    return owners


async def owners_of(
    connection: AsyncConnection, devices: Collection[str], *, but: UUID
) -> list[Worker]:
    """Other live workers with one of these devices among their slots."""
    return [
        worker
        for worker in await live_workers(connection)
        if worker.id != but and any(slot.id in devices for slot in worker.slots)
    ]


async def deregister(connection: AsyncConnection, worker_id: UUID) -> None:
    """Delete the row of a worker that ends, so that its heartbeat need not age."""
    await connection.execute(delete(workers).where(workers.c.id == worker_id))


async def live_workers(connection: AsyncConnection) -> list[Worker]:
    """Workers whose heartbeat is younger than `LIVE_S` by PostgreSQL's clock, oldest first."""
    rows = await connection.execute(
        select(workers)
        .where(workers.c.heartbeat_at > func.clock_timestamp() - timedelta(seconds=LIVE_S))
        .order_by(workers.c.started_at, workers.c.id)
    )
    return [_worker(row) for row in rows.mappings()]


def slots_for(live: Sequence[Worker], *, device: str, queue: str) -> list[Slot]:
    """Every slot of this device that serves this queue, busy or not."""
    return [
        slot
        for worker in live
        if queue in worker.queues
        for slot in worker.slots
        if slot.device == device
    ]


def _slot_to_json(slot: Slot) -> dict[str, Any]:
    values = asdict(slot)
    job_id = None if slot.job_id is None else str(slot.job_id)
    return {"class": values.pop("device_class"), **values, "job_id": job_id}


def _worker(row: RowMapping) -> Worker:
    return read(
        Worker,
        row,
        queues=tuple(row["queues"]),
        # A worker of another release may say less of a slot, or more.
        slots=tuple(_slot(slot) for slot in row["slots"]),
        models={UUID(model["id"]): model["checkpoint_sha256"] for model in row["models"]},
        warm=frozenset(UUID(model["id"]) for model in row["models"] if model.get("warm")),
        serves=_serves(row["serves"]),
    )


def _slot(value: Mapping[str, Any]) -> Slot:
    job_id = value.get("job_id")
    return read(
        Slot,
        value,
        device_class=value["class"],
        job_id=None if job_id is None else UUID(job_id),
    )


def _serves(value: Mapping[str, Any]) -> Serves:
    """A worker of another release may name a priority that this one does not have."""
    return Serves(
        priorities=tuple(Priority(each) for each in value.get("priorities", ())),
        users=tuple(value.get("users", ())),
    )
