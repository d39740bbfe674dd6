"""The registry's rows. The files are on each worker's host, the descriptor is in the row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, literal_column, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import columns_of, models, steps
from shared.models.descriptor import Descriptor, capabilities_of, schema_of
from shared.states import TERMINAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    id: UUID
    name: str
    version: str
    kind: str
    enabled: bool
    checkpoint_sha256: str
    descriptor: dict[str, Any]
    parameters_schema: dict[str, Any]
    capabilities: list[str]
    created_at: datetime
    updated_at: datetime

    @property
    def label(self) -> str:
        """Name and version, as references and messages have them."""
        return f"{self.name}@{self.version}"


_COLUMNS = columns_of(models, Model)

# Another text after each change of a row: every write moves `updated_at`. The sum and not the
# newest: of two writes at once the one that is older by its own clock may commit last.
REGISTRY_VERSION = (
    select(
        func.concat_ws(
            literal_column("' '"),
            func.count(),
            func.sum(func.extract("epoch", models.c.updated_at)),
        )
    )
    .select_from(models)
    .scalar_subquery()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """Every model, the newest version of each name first, and the version of the whole."""

    models: Sequence[Model]
    version: str


async def read_registry(connection: AsyncConnection) -> Registry:
    """The version is read first: after a change between the two it is an old one, never a wrong
    one."""
    version = (await connection.execute(select(REGISTRY_VERSION))).scalar_one()
    return Registry(models=await list_models(connection), version=version)


async def upsert_model(connection: AsyncConnection, descriptor: Descriptor) -> Model:
    """Write a model's row by (name, version). `enabled` and the id of a known one stay."""
    facts = {
        "kind": descriptor.kind,
        "checkpoint_sha256": descriptor.checkpoint_sha256,
        "descriptor": descriptor.model_dump(mode="json"),
        "parameters_schema": schema_of(descriptor),
        "capabilities": list(capabilities_of(descriptor)),
    }
    written = await connection.execute(
        insert(models)
        .values(id=uuid4(), name=descriptor.name, version=descriptor.version, **facts)
        .on_conflict_do_update(
            index_elements=[models.c.name, models.c.version],
            set_={**facts, "updated_at": func.clock_timestamp()},
        )
        .returning(*_COLUMNS)
    )
    return Model(**written.mappings().one())


async def list_models(connection: AsyncConnection) -> list[Model]:
    """Every model, the newest version of each name first."""
    rows = await connection.execute(
        select(*_COLUMNS).order_by(models.c.name, models.c.created_at.desc(), models.c.id)
    )
    return [Model(**row) for row in rows.mappings()]


def named(rows: Sequence[Model], reference: str) -> list[Model]:
    """The rows that `reference` names: by id, by name (all its versions), or by `name@version`."""
    return [row for row in rows if reference in (str(row.id), row.name, row.label)]


async def set_enabled(connection: AsyncConnection, model_id: UUID, enabled: bool) -> bool:
    """Allow or refuse new jobs for a model; False when there is no such row."""
    done = await connection.execute(
        update(models)
        .where(models.c.id == model_id)
        .values(enabled=enabled, updated_at=func.clock_timestamp())
    )
    return done.rowcount == 1


async def count_open_steps(connection: AsyncConnection, model_id: UUID) -> int:
    """Steps that still need the model or LoRA: waiting, running or being stopped."""
    query = select(func.count()).where(
        or_(steps.c.model_id == model_id, steps.c.loras.contains([model_id])),
        steps.c.state.not_in([str(state) for state in TERMINAL]),
    )
    return int((await connection.execute(query)).scalar_one())


async def retire_model(connection: AsyncConnection, model_id: UUID) -> bool:
    """Delete a model's row; True when it could. A row that jobs name is disabled and stays."""
    # Waits for jobs that are being created with it, and lets later ones wait for us.
    await connection.execute(select(models.c.id).where(models.c.id == model_id).with_for_update())
    await set_enabled(connection, model_id, enabled=False)
    named = select(steps.c.id).where(steps.c.model_id == model_id).exists()
    done = await connection.execute(delete(models).where(models.c.id == model_id, ~named))
    return done.rowcount == 1
