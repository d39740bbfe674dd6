"""The registry's rows. The files are on each worker's host, the descriptor is in the row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, delete, func, literal_column, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.stored_json import report
from shared.db.tables import columns_of, models, read, steps
from shared.models.descriptor import Descriptor, capabilities_of, schema_of
from shared.models.families import FAMILIES, LORA
from shared.states import TERMINAL
from shared.typed_json import Mismatch, typed


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
    # Why this release cannot read the row, if so: then the three above are empty.
    unreadable: str | None = None

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
            # An infinite one would hide every other change.
            func.sum(func.extract("epoch", models.c.updated_at)).filter(
                func.isfinite(models.c.updated_at)
            ),
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
    return _model(written.mappings().one())


async def list_models(connection: AsyncConnection) -> list[Model]:
    """Every model, the newest version of each name first."""
    rows = await connection.execute(
        select(*_COLUMNS).order_by(models.c.name, models.c.created_at.desc(), models.c.id)
    )
    return [_model(row) for row in rows.mappings()]


class _Source(TypedDict):
    uri: NotRequired[str]


class _Described(TypedDict):
    """What is read of a model's descriptor; `parts_of` reads its parts."""

    default_preset: NotRequired[str | None]
    family: NotRequired[str | None]
    lora_width: NotRequired[int | None]
    source: NotRequired[_Source]


class _Defaults(TypedDict):
    steps: int
    guidance: float


class _DescribedUpscaler(_Described):
    scale: int
    defaults: _Defaults


class _DescribedLora(TypedDict):
    family: str
    width: NotRequired[int | None]
    changed_numbers: int


class _Side(TypedDict):
    minimum: int
    maximum: int
    multipleOf: int


class _Sides(TypedDict):
    width: _Side
    height: _Side


class _UpscalerSchema(TypedDict):
    properties: _Sides


class _Schema(TypedDict):
    properties: NotRequired[dict[str, dict[str, Any]]]


def _model(row: RowMapping) -> Model:
    """One that cannot be read is listed and can do nothing, and hides no other."""
    try:
        _check(row)
    except Mismatch as mismatch:
        unreadable = str(mismatch)
        report(f"model {row['name']}@{row['version']} cannot be used: {unreadable}")
        nothing: dict[str, Any] = {"descriptor": {}, "parameters_schema": {}, "capabilities": []}
        return read(Model, row, unreadable=unreadable, **nothing)
    return read(Model, row)


def _check(row: RowMapping) -> None:
    """Raise `Mismatch` for what a reader of the row could not bear."""
    can = typed(list[str], row["capabilities"])
    if row["kind"] != LORA and row["kind"] not in FAMILIES:
        raise Mismatch(f"this release has no kind {row['kind']!r}")
    is_lora, upscales = row["kind"] == LORA, "upscale" in can
    typed(_DescribedLora if is_lora else _Described, row["descriptor"])
    typed(_Schema, row["parameters_schema"])
    if upscales:
        if FAMILIES[row["kind"]].upscaling is None:
            raise Mismatch(f"a model of the kind {row['kind']!r} upscales nothing")
        typed(_DescribedUpscaler, row["descriptor"])
        typed(_UpscalerSchema, row["parameters_schema"])


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
