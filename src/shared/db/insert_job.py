"""The statement that inserts a job: its row, steps, tags and `job.created`, in one round trip.

It inserts nothing where

* the idempotency key is in use (`ON CONFLICT DO NOTHING`),
* the registry of models is not at the version that the job was planned with,
* the user has too many unfinished jobs, if the caller has them counted, or
* a picture that it starts from was deleted since.

The caller cannot tell which of them it was, and finds out with statements of its own. The checks
are in the statement because they then hold for the very snapshot that it inserts with. The rows of
the pictures are locked: who deletes one waits for the commit and then finds the job
(`shared.db.inputs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Integer,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    column,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.jobs import unfinished_of
from shared.db.models import REGISTRY_VERSION
from shared.db.statement import Statement
from shared.db.tables import columns_of
from shared.events import Code
from shared.states import Priority, Status, StepState


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotencyKey:
    """`key_hash` is the SHA-256 of the client's key, `fingerprint` that of the canonical body."""

    key_hash: str
    fingerprint: str
    ttl_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStep:
    """A step with everything that it needs pinned, so that a later edit changes no accepted job."""

    id: UUID
    name: str
    type: str
    params: dict[str, Any]
    queue: str
    device: str
    preset: dict[str, Any]
    vram_bytes: int
    timeout_s: float
    model_id: UUID | None  # None: the step needs no model
    checkpoint_sha256: str | None
    loras: Sequence[UUID] | None = None  # models of the kind lora that it needs besides
    # What it starts from, as `PinnedInput` has it; None: no picture of a user.
    inputs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A job to insert. `steps` run in this order; the first one may be claimed at once."""

    id: UUID
    type: str
    user: str
    request: dict[str, Any]
    count: int
    correlation_id: str
    steps: Sequence[NewStep]
    priority: Priority = Priority.NORMAL
    weight: float = 1.0  # of the user: who has 2 gets twice the seconds of who has 1
    tags: dict[str, str] = field(default_factory=dict)
    usage_tags: Sequence[str] = ()  # the keys of `tags` by which its usage is counted too
    webhook: dict[str, Any] | None = None
    client_request_id: str | None = None
    traceparent: str | None = None
    key: IdempotencyKey | None = None
    replay_of: UUID | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Inserted:
    """`unfinished` jobs the user had before this one, where they were counted."""

    created_at: datetime
    unfinished: int | None


async def insert_job(
    connection: AsyncConnection,
    new: NewJob,
    *,
    registry_version: str | None = None,
    unfinished_below: int | None = None,
) -> Inserted | None:
    """Insert the job, or nothing (None); a condition that is None is not checked.

    `unfinished_below` has the user's unfinished jobs counted, up to that number. Creates that run
    at the same instant do not see each other's: only a lock makes the count exact.
    """
    row = await _INSERT.first(
        connection,
        **_job_parameters(new),
        steps=[_step(new, step, number) for number, step in enumerate(new.steps)],
        message=f"{new.type} job of {new.count} accepted",
        payload=_payload(new),
        registry_version=registry_version,
        unfinished_below=unfinished_below or 0,
    )
    if row is None:
        return None
    created_at, unfinished = row
    counted = None if unfinished_below is None else unfinished
    return Inserted(created_at=created_at, unfinished=counted)


def input_ids(new: NewJob) -> list[UUID]:
    """The pictures that its steps start from, each once."""
    named = (UUID(each["id"]) for step in new.steps for each in step.inputs or ())
    return list(dict.fromkeys(named))


def _job_parameters(new: NewJob) -> dict[str, Any]:
    key = new.key
    values = {f"job_{each.name}": getattr(new, each.name) for each in _JOB_COLUMNS}
    return values | {
        "usage_tags": list(new.usage_tags),
        "input_ids": input_ids(new),
        "key_hash": None if key is None else key.key_hash,
        "fingerprint": None if key is None else key.fingerprint,
        "key_ttl_s": None if key is None else key.ttl_s,
    }


def _step(new: NewJob, step: NewStep, position: int) -> dict[str, Any]:
    state = StepState.PENDING if position else StepState.QUEUED
    values = {each.name: getattr(step, each.name) for each in _PINNED_COLUMNS}
    values = {name: str(v) if isinstance(v, UUID) else v for name, v in values.items()}
    values["loras"] = None if step.loras is None else [str(each) for each in step.loras]
    values |= {each.name: getattr(new, each.name) for each in _TURN_COLUMNS}
    return values | {"position": position, "state": state}


def _payload(new: NewJob) -> dict[str, Any]:
    return {
        "type": new.type,
        "count": new.count,
        "steps": [step.name for step in new.steps],
        "correlation_id": new.correlation_id,
        "client_request_id": new.client_request_id,
    }


# The statement ------------------------------------------------------------------------------------
# Compiled once, with a parameter for every value: its text is the same for every job, so PostgreSQL
# plans it once a connection. The steps are one JSON parameter, or
# the text would depend on how many there are. Constants are text: each parameter costs.

_JOB_COLUMNS = columns_of(t.jobs, NewJob)
_PINNED_COLUMNS = columns_of(t.steps, NewStep)
_TURN_COLUMNS = (t.steps.c.user, t.steps.c.priority, t.steps.c.weight)
_STEP_COLUMNS = [*_PINNED_COLUMNS, *_TURN_COLUMNS, t.steps.c.position, t.steps.c.state]
_IDS = ARRAY(t.inputs.c.id.type)
_FIRST_SEQ: ColumnElement[int] = literal_column("1")


def _constant(word: str) -> ColumnElement[str]:
    return literal_column(f"'{word}'")


def _quota() -> Any:
    """The user's unfinished jobs, counted up to the bound; a bound of 0 reads no row."""
    return unfinished_of(
        bindparam("job_user", type_=Text), bindparam("unfinished_below", type_=Integer)
    ).cte("quota")


def _kept() -> Any:
    """The pictures that are there. The lock waits for one that is being deleted."""
    return (
        select(t.inputs.c.id)
        .where(t.inputs.c.id == any_(bindparam("input_ids", type_=_IDS)))
        .order_by(t.inputs.c.id)
        .with_for_update(read=True, key_share=True)
        .cte("kept")
    )


def _new_job(quota: Any) -> Any:
    registry = bindparam("registry_version", type_=Text)
    values: dict[Column[Any], ColumnElement[Any]] = {
        each: bindparam(f"job_{each.name}", type_=each.type) for each in _JOB_COLUMNS
    }
    values |= {
        t.jobs.c.status: _constant(Status.QUEUED),
        t.jobs.c.event_seq: _FIRST_SEQ,
        t.jobs.c.key_hash: bindparam("key_hash", type_=Text),
        t.jobs.c.fingerprint: bindparam("fingerprint", type_=Text),
        # Without a key this is null, as every sum with null.
        t.jobs.c.key_expires_at: func.now()
        + bindparam("key_ttl_s", type_=Float) * literal_column("interval '1 second'"),
    }
    below = bindparam("unfinished_below", type_=Integer)
    pictures = func.cardinality(bindparam("input_ids", type_=_IDS))
    admitted = select(*values.values()).where(
        or_(registry.is_(None), registry == REGISTRY_VERSION),
        or_(below == literal_column("0"), select(quota.c.unfinished).scalar_subquery() < below),
        pictures == select(func.count()).select_from(_kept()).scalar_subquery(),
    )
    return (
        upsert(t.jobs)
        .from_select(list(values), admitted)
        .on_conflict_do_nothing(
            index_elements=[t.jobs.c.user, t.jobs.c.key_hash],
            index_where=text("key_hash IS NOT NULL"),
        )
        .returning(t.jobs.c.id, t.jobs.c.created_at)
        .cte("new_job")
    )


def _insert_for(table: Table, new_job: Any, source: Any, columns: Sequence[Column[Any]]) -> Any:
    """Rows of `table` for the new job; none where there is none."""
    rows = select(new_job.c.id, *(source.c[each.name] for each in columns))
    return insert(table).from_select(
        [table.c.job_id, *columns], rows.select_from(new_job.join(source, true()))
    )


def _new_steps(new_job: Any) -> Any:
    source = (
        func.jsonb_to_recordset(bindparam("steps", type_=JSONB))
        .table_valued(*(column(each.name, each.type) for each in _STEP_COLUMNS))
        .render_derived(name="step", with_types=True)
    )
    return _insert_for(t.steps, new_job, source, _STEP_COLUMNS).cte("new_steps")


def _new_tags(new_job: Any) -> Any:
    """The job's tags as rows, which lists of one tag read."""
    tag = func.jsonb_each_text(bindparam("job_tags", type_=JSONB)).table_valued("key", "value")
    values: dict[Column[Any], Any] = {
        t.job_tags.c.job_id: new_job.c.id,
        t.job_tags.c.user: bindparam("job_user", type_=Text),
        t.job_tags.c.created_at: new_job.c.created_at,
        t.job_tags.c.key: tag.c.key,
        t.job_tags.c.value: tag.c.value,
        t.job_tags.c.in_usage: tag.c.key == any_(bindparam("usage_tags", type_=ARRAY(Text))),
    }
    rows = select(*values.values()).select_from(new_job.join(tag, true()))
    return insert(t.job_tags).from_select(list(values), rows).cte("new_tags")


def _new_event(new_job: Any) -> Any:
    values: dict[Column[Any], ColumnElement[Any]] = {
        t.events.c.seq: _FIRST_SEQ,
        t.events.c.code: _constant(Code.JOB_CREATED),
        t.events.c.level: _constant("INFO"),
        t.events.c.message: bindparam("message", type_=Text),
        t.events.c.payload: bindparam("payload", type_=JSONB),
    }
    source = select(*(value.label(each.name) for each, value in values.items())).subquery("event")
    return _insert_for(t.events, new_job, source, list(values)).cte("new_event")


def _statement() -> Select[Any]:
    quota = _quota()
    new_job = _new_job(quota)
    return select(
        new_job.c.created_at, select(quota.c.unfinished).scalar_subquery().label("unfinished")
    ).add_cte(_new_steps(new_job), _new_tags(new_job), _new_event(new_job))


_INSERT = Statement(_statement())
