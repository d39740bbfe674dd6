"""The workers' table: each worker writes its row every few seconds.

The API reads it to refuse at once what no live worker could hold, and to say how much the largest
slot has. A worker that was killed counts as gone once its heartbeat is `LIVE_S` old.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, NotRequired, TypedDict
from uuid import UUID

from sqlalchemy import RowMapping, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.stored_json import Id, report
from shared.db.tables import read, values_of, workers
from shared.states import Priority
from shared.typed_json import Mismatch, typed
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
    """Workers whose heartbeat is younger than `LIVE_S` by PostgreSQL's clock, oldest first.

    An infinite one would never age, and is none.
    """
    rows = await connection.execute(
        select(workers)
        .where(
            workers.c.heartbeat_at > func.clock_timestamp() - timedelta(seconds=LIVE_S),
            func.isfinite(workers.c.heartbeat_at),
        )
        .order_by(workers.c.started_at, workers.c.id)
    )
    return list(_readable(rows.mappings()))


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


_StoredSlot = TypedDict(
    "_StoredSlot",
    {
        "id": str,
        "device": str,
        "class": str,
        "capacity_bytes": int,
        "state": str,
        "free_bytes": NotRequired[int | None],
        "holders": NotRequired[dict[str, int]],
        "job_id": NotRequired[Id | None],
    },
)


class _StoredModel(TypedDict):
    id: Id
    checkpoint_sha256: str
    warm: NotRequired[bool]


class _StoredServes(TypedDict):
    priorities: NotRequired[list[str]]
    users: NotRequired[list[str]]


def _readable(rows: Iterable[RowMapping]) -> Iterator[Worker]:
    """The workers of these rows. One that cannot be read counts as none, and hides no other."""
    for row in rows:
        try:
            yield _worker(row)
        except Mismatch as mismatch:
            report(f"worker {row['id']} counts as none: its row cannot be read ({mismatch})")


def _worker(row: RowMapping) -> Worker:
    """A worker of another release may say less than this one, or more. Raises `Mismatch`."""
    models = typed(list[_StoredModel], row["models"])
    return read(
        Worker,
        row,
        queues=tuple(typed(list[str], row["queues"])),
        slots=tuple(_slot(slot) for slot in typed(list[_StoredSlot], row["slots"])),
        models={UUID(model["id"]): model["checkpoint_sha256"] for model in models},
        warm=frozenset(UUID(model["id"]) for model in models if model.get("warm")),
        serves=_serves(typed(_StoredServes, row["serves"])),
    )


def _slot(value: _StoredSlot) -> Slot:
    job_id = value.get("job_id")
    return read(
        Slot,
        value,
        device_class=value["class"],
        job_id=None if job_id is None else UUID(job_id),
    )


def _serves(value: _StoredServes) -> Serves:
    """A priority that this release does not have is left out. Raises `Mismatch` where no other is
    named: nothing would mean all of them."""
    named = value.get("priorities", [])
    known = tuple(Priority(each) for each in named if each in set(Priority))
    if named and not known:
        raise Mismatch("it is kept for priorities that this release does not have")
    return Serves(priorities=known, users=tuple(value.get("users", ())))
