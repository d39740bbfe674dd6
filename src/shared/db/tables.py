"""The schema. `migrations/` makes it, `alembic check` holds the two together.

CHECK constraints are the last line of defence: they repeat, in the database, what the state
machine already guarantees, so that a hand-written UPDATE at 3 a.m. cannot make an impossible row.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, Protocol, TypeVar
from uuid import UUID as UUID_

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.states import (
    ENDED,
    OWNED,
    TERMINAL,
    DeliveryState,
    Priority,
    Reason,
    Status,
    StepState,
)
from shared.webhooks import WebhookEvent

log = logging.getLogger(__name__)

T = TypeVar("T")

# The newest migration. Written here, so that a service needs neither Alembic nor the migrations;
# `test_migrations` compares the two. Revisions are numbered with four digits, so they sort.
REVISION = "0028"

# In an index over steps: what stands for "needs no model".
NO_MODEL = UUID_("00000000-0000-0000-0000-000000000000")
# A step that is claimed or ended leaves a dead entry at the very place where the next claim looks.
# The usual share of the table, a fifth, would be millions of them; and where few pages have dead
# rows, a vacuum would not look at the indexes at all.
VACUUMED_OFTEN = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "20000",
    "autovacuum_vacuum_cost_delay": "0",
    "vacuum_index_cleanup": "on",
}

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def one_of(column: str, words: Iterable[StrEnum]) -> str:
    """SQL for: the column holds one of these words."""
    return f"{column} IN ({', '.join(repr(w.value) for w in sorted(words))})"


def _id() -> Column[Any]:
    return Column("id", UUID, primary_key=True)


def _schema_version() -> Column[Any]:
    return Column("schema_version", Integer, nullable=False, server_default=text("1"))


def _now(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _moment(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True))


def _ends(column: str, words: Iterable[StrEnum], last: Iterable[StrEnum]) -> list[CheckConstraint]:
    """The column holds one of `words`; a row has an end and a reason when that is one of `last`."""
    return [
        CheckConstraint(one_of(column, words), column),
        CheckConstraint(f"reason IS NULL OR {one_of('reason', Reason)}", "reason"),
        CheckConstraint(
            f"({one_of(column, last)}) = (finished_at IS NOT NULL) "
            "AND (finished_at IS NULL) = (reason IS NULL)",
            "finished",
        ),
    ]


models = Table(
    "models",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("checkpoint_sha256", Text, nullable=False),
    Column("descriptor", JSONB, nullable=False),
    Column("parameters_schema", JSONB, nullable=False),
    Column("capabilities", JSONB, nullable=False),
    _now("created_at"),
    _now("updated_at"),
    _schema_version(),
    UniqueConstraint("name", "version"),
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    Column("type", Text, nullable=False),
    Column("user", Text, nullable=False, server_default=text("'default'")),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("error", JSONB),
    Column("request", JSONB, nullable=False),
    Column("count", Integer, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("priority", Text, nullable=False, server_default=text("'normal'")),
    Column("tags", JSONB, nullable=False, server_default=text("'{}'")),
    Column("webhook", JSONB(none_as_null=True)),  # url and events; null: nobody is told
    Column("client_request_id", Text),
    Column("traceparent", Text),  # the request's span, while traces are on
    Column("key_hash", Text),
    Column("fingerprint", Text),
    _moment("key_expires_at"),
    Column("event_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("replay_of", UUID, ForeignKey("jobs.id", ondelete="SET NULL")),
    _moment("cancel_requested_at"),
    _now("created_at"),
    _now("updated_at"),
    _moment("finished_at"),
    _schema_version(),
    *_ends("status", Status, ENDED),
    CheckConstraint(one_of("priority", Priority), "priority"),
    CheckConstraint("count BETWEEN 1 AND 100", "count"),
    CheckConstraint("(key_hash IS NULL) = (fingerprint IS NULL)", "idempotency"),
    Index(
        "ix_jobs_idempotency",
        "user",
        "key_hash",
        unique=True,
        postgresql_where=text("key_hash IS NOT NULL"),
    ),
    Index("ix_jobs_user_created_at_id", "user", "created_at", "id"),
    # For lists of one status, and to count what a user has unfinished beside millions that ended.
    Index("ix_jobs_user_status_created_at_id", "user", "status", "created_at", "id"),
    Index("ix_jobs_status_updated_at", "status", "updated_at"),
    # For the foreign key: without it a deleted job costs a scan of this table.
    Index("ix_jobs_replay_of", "replay_of", postgresql_where=text("replay_of IS NOT NULL")),
    # event_seq moves with every event: leave room in each page so that the update stays HOT.
    postgresql_with={"fillfactor": "80"},
)

# The tags of `jobs.tags` once more, in the order in which lists of one tag are read. An index over
# the column could not give that order: a tag of a million jobs would be read whole for one page.
job_tags = Table(
    "job_tags",
    metadata,
    Column("user", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),  # the job's
    Column("job_id", UUID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    # Whether what the job uses is summed under it: the installation's choice at the create.
    Column("in_usage", Boolean, nullable=False, server_default=text("false")),
    _schema_version(),
    PrimaryKeyConstraint("user", "key", "value", "created_at", "job_id"),
    Index("ix_job_tags_job_id", "job_id"),  # for the foreign key
)

steps = Table(
    "steps",
    metadata,
    _id(),
    Column("job_id", UUID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("params", JSONB, nullable=False),
    # Pinned at create: what the step needs, so that a later edit changes no accepted job.
    Column("queue", Text, nullable=False, server_default=text("'default'")),
    Column("device", Text, nullable=False),
    Column("preset", JSONB, nullable=False),
    Column("vram_bytes", BigInteger, nullable=False),
    Column("timeout_s", Float, nullable=False),
    # Null: the step needs no model, so any worker can run it.
    Column("model_id", UUID, ForeignKey("models.id")),
    Column("checkpoint_sha256", Text),
    # Models of the kind lora that it needs besides; null: none. `params` says how.
    Column("loras", ARRAY(UUID)),
    # The pictures that a first step starts from, in its order; null: none (`shared.step_store`).
    Column("inputs", JSONB(none_as_null=True)),
    # What decides whose turn it is (`shared.db.claim`), pinned as well.
    Column("user", Text, nullable=False, server_default=text("'default'")),
    Column("priority", Text, nullable=False, server_default=text("'normal'")),
    Column("weight", Float, nullable=False, server_default=text("1")),
    Column("passed", Integer, nullable=False, server_default=text("0")),
    # Lifecycle.
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("error", JSONB),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("losses", Integer, nullable=False, server_default=text("0")),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("lease_owner", UUID),
    _moment("lease_expires_at"),
    _now("run_at"),
    # Of the present execution, or of the last one of a step that has ended: claim, and GO.
    _moment("claimed_at"),
    Column("virtual_s", Float),  # its user's virtual time at the claim
    _moment("attempt_started_at"),
    _moment("vram_wait_since"),
    _moment("cancel_requested_at"),
    _now("created_at"),
    _now("updated_at"),
    _moment("started_at"),
    _moment("finished_at"),
    _schema_version(),
    UniqueConstraint("job_id", "position"),
    *_ends("state", StepState, TERMINAL),
    CheckConstraint(
        f"({one_of('state', OWNED)}) = (lease_owner IS NOT NULL) "
        "AND (lease_owner IS NULL) = (lease_expires_at IS NULL)",
        "lease",
    ),
    CheckConstraint("attempt >= 0 AND losses >= 0 AND epoch >= 0", "counters"),
    CheckConstraint("device IN ('cpu', 'cuda')", "device"),
    CheckConstraint("timeout_s > 0 AND vram_bytes >= 0", "needs"),
    CheckConstraint("(model_id IS NULL) = (checkpoint_sha256 IS NULL)", "model"),
    CheckConstraint(one_of("priority", Priority), "priority"),
    CheckConstraint("weight > 0", "weight"),
    # The claim reads both: one user, or one need class, after the other; the oldest step first.
    Index(
        "ix_steps_line",
        "device",
        "priority",
        "user",
        "created_at",
        "id",
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "ix_steps_waiting",
        "device",
        "priority",
        "user",
        text(f"coalesce(model_id, '{NO_MODEL}'::uuid)"),
        "vram_bytes",
        "created_at",
        "id",
        postgresql_where=text("state = 'queued'"),
    ),
    # For the rescuer, which looks for steps that no worker claims.
    Index("ix_steps_run_at", "run_at", "id", postgresql_where=text("state = 'queued'")),
    # For retention: which steps name an input.
    Index(
        "ix_steps_inputs",
        "inputs",
        postgresql_using="gin",
        postgresql_ops={"inputs": "jsonb_path_ops"},
        postgresql_where=text("inputs IS NOT NULL"),
    ),
    Index(
        "ix_steps_lease_expires_at",
        "lease_expires_at",
        postgresql_where=text("lease_owner IS NOT NULL"),
    ),
    postgresql_with=VACUUMED_OFTEN,
)

# For statements that must find the partial indexes above: their conditions, as they stand there.
# With a parameter instead, the plan that PostgreSQL keeps for a statement reads the table whole.
IS_QUEUED = literal_column(f"steps.state = '{StepState.QUEUED}'", Boolean)
IS_OWNED = steps.c.lease_owner.is_not(None)
# Another epoch than before, which is all that a fence needs. After the last one comes 0: a sum that
# the column cannot hold would be an error, of each worker that looks at the row.
NEXT_EPOCH = literal_column(
    "CASE WHEN steps.epoch < 9223372036854775807 THEN steps.epoch + 1 ELSE 0 END", BigInteger
)
MOST_TRIES = 2**31 - 1  # that the columns of a step's counters hold

# How much of the devices each user has used; `shared.db.shares` has the rules.
shares = Table(
    "shares",
    metadata,
    Column("user", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("virtual_s", Float, nullable=False),  # seconds used / weight
    Column("start_s", Float, nullable=False),  # the greatest virtual time that a step started at
    Column("mean_s", Float, nullable=False),  # what an execution takes, about
    _now("ended_at"),  # of the last execution
    _schema_version(),
    PrimaryKeyConstraint("user", "device"),
    CheckConstraint("virtual_s >= 0 AND start_s >= 0 AND mean_s >= 0", "amounts"),
    # Each end of an execution updates one row: leave room in the page.
    postgresql_with={"fillfactor": "50"},
)

events = Table(
    "events",
    metadata,
    Column("job_id", UUID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("step_id", UUID),
    # Not now(): that is the transaction's start, and one that waited for the job's lock would show
    # an earlier time than an event with a smaller seq.
    Column("ts", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("level", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("item_index", Integer),
    Column("payload", JSONB),
    _schema_version(),
    PrimaryKeyConstraint("job_id", "seq"),
    # For the pruner. It deletes a job's first event last, so that this one holds no job that is
    # pruned, though each keeps its verdict.
    Index("ix_events_first", "ts", "job_id", postgresql_where=text("seq = 1")),
    CheckConstraint("level IN ('DEBUG', 'INFO', 'WARNING', 'ERROR')", "level"),
    CheckConstraint("seq >= 1", "seq"),
)

# What the receivers of jobs are to get; `shared.db.deliveries` has the rules.
deliveries = Table(
    "deliveries",
    metadata,
    Column("job_id", UUID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger, nullable=False),  # of the event that is reported
    Column("user", Text, nullable=False),
    Column("host", Text, nullable=False),  # of the receiver, with its port
    Column("event", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    _now("created_at"),
    _moment("next_at"),  # null: ended, or an earlier one of the job has its turn
    Column("expires_at", DateTime(timezone=True), nullable=False),
    _moment("ended_at"),
    _schema_version(),
    PrimaryKeyConstraint("job_id", "seq"),
    CheckConstraint(one_of("event", WebhookEvent), "event"),
    CheckConstraint(one_of("state", DeliveryState), "state"),
    CheckConstraint(
        "(state = 'waiting') = (ended_at IS NULL) AND (state = 'waiting' OR next_at IS NULL)",
        "ended",
    ),
    CheckConstraint("attempts >= 0 AND seq >= 1", "counters"),
    Index(
        "ix_deliveries_waiting",
        "user",
        "host",
        "next_at",
        postgresql_where=text("next_at IS NOT NULL"),
    ),
    # One at a time of each job, or its receiver could get them in another order.
    Index(
        "ix_deliveries_turn",
        "job_id",
        unique=True,
        postgresql_where=text("next_at IS NOT NULL"),
    ),
    Index("ix_deliveries_state_created_at", "state", "created_at"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _id(),
    Column("job_id", UUID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("step_id", UUID, ForeignKey("steps.id", ondelete="CASCADE"), nullable=False),
    Column("step", Text, nullable=False),
    Column("item_index", Integer, nullable=False),
    Column("format", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("s3_key", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    _now("created_at"),
    _schema_version(),
    UniqueConstraint("job_id", "step_id", "item_index"),
    Index("ix_artifacts_step_id", "step_id"),  # for the foreign key, as above
    Index("ix_artifacts_created_at", "created_at"),  # for the pruner: the oldest first
    CheckConstraint("format IN ('png', 'jpg', 'webp')", "format"),
    CheckConstraint("seed >= 0 AND seed < 9007199254740992", "seed"),
)

# Pictures that users sent; `shared.db.inputs` has the rules.
inputs = Table(
    "inputs",
    metadata,
    _id(),
    Column("user", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("orientation", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("s3_key", Text, nullable=False, unique=True),
    _now("created_at"),
    _now("used_at"),
    _schema_version(),
    UniqueConstraint("user", "sha256"),
    Index("ix_inputs_used_at", "used_at"),  # for the pruner: the oldest first
    CheckConstraint("format IN ('png', 'jpg', 'webp')", "format"),
    CheckConstraint("width > 0 AND height > 0 AND size_bytes > 0", "sizes"),
    CheckConstraint("orientation BETWEEN 1 AND 8", "orientation"),
)

workers = Table(
    "workers",
    metadata,
    _id(),
    Column("host", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("queues", JSONB, nullable=False),
    Column("slots", JSONB, nullable=False),
    Column("models", JSONB, nullable=False),
    Column("serves", JSONB, nullable=False, server_default=text("'{}'")),  # empty: everything
    _now("started_at"),
    _now("heartbeat_at"),
    _schema_version(),
)


def _amounts() -> list[Column[Any] | CheckConstraint]:
    """What `shared.db.usage` adds up."""
    counts = ("jobs_succeeded", "jobs_failed", "jobs_cancelled", "pictures")
    sums = ("run_seconds", "device_byte_seconds", "wait_seconds")
    return [
        *(Column(each, BigInteger, nullable=False, server_default=text("0")) for each in counts),
        *(Column(each, Float, nullable=False, server_default=text("0")) for each in sums),
        CheckConstraint(" AND ".join(f"{each} >= 0" for each in (*counts, *sums)), "amounts"),
    ]


usage = Table(
    "usage",
    metadata,
    Column("day", Date, nullable=False),  # in UTC
    Column("user", Text, nullable=False),
    Column("model", Text, nullable=False),  # name@version; empty: a step without a model
    *_amounts(),
    _schema_version(),
    PrimaryKeyConstraint("day", "user", "model"),
)

# The same amounts once more, for each tag of a job that the installation counts by.
tag_usage = Table(
    "tag_usage",
    metadata,
    Column("day", Date, nullable=False),
    Column("user", Text, nullable=False),
    Column("tag_key", Text, nullable=False),
    Column("tag_value", Text, nullable=False),  # empty: also values beyond the bound of a day
    Column("model", Text, nullable=False),
    *_amounts(),
    _schema_version(),
    PrimaryKeyConstraint("day", "user", "tag_key", "tag_value", "model"),
)

# Of each kind of step the newest successes, newest first; the three arrays belong together.
run_times = Table(
    "run_times",
    metadata,
    Column("type", Text, nullable=False),
    Column("checkpoint_sha256", Text, nullable=False),  # empty: a step without a model
    Column("preset", Text, nullable=False),  # name@version
    Column("work", ARRAY(Float), nullable=False),
    Column("start_seconds", ARRAY(Float), nullable=False),
    Column("seconds", ARRAY(Float), nullable=False),
    _schema_version(),
    PrimaryKeyConstraint("type", "checkpoint_sha256", "preset"),
    CheckConstraint(
        "cardinality(work) = cardinality(seconds) "
        "AND cardinality(start_seconds) = cardinality(seconds)",
        "samples",
    ),
    # Rewritten with each step that succeeds: room in its page keeps the update HOT.
    postgresql_with={"fillfactor": "50"},
)


# Records ------------------------------------------------------------------------------------------


class NamedRow(Protocol):
    """A row of a `shared.db.statement.Statement`."""

    def _asdict(self) -> dict[str, Any]: ...


def columns_of(table: Table, record: Any) -> list[Column[Any]]:
    """The columns that have the names of a dataclass's fields."""
    return [table.c[field.name] for field in fields(record) if field.name in table.c]


def read(record: type[T], row: Row[Any] | NamedRow | Mapping[str, Any], **values: Any) -> T:
    """A dataclass from the columns with its fields' names; `values` are those of other fields."""
    columns = row if isinstance(row, Mapping) else row._asdict()
    names = {field.name for field in fields(record)}  # type: ignore[arg-type]
    return record(**({name: columns[name] for name in names & columns.keys()} | values))


def values_of(table: Table, record: Any, **values: Any) -> dict[str, Any]:
    """What to insert for a dataclass: its fields that have a column; `values` are other columns."""
    names = [column.name for column in columns_of(table, record)]
    return {name: getattr(record, name) for name in names} | values


# The migrations -----------------------------------------------------------------------------------


async def missing_migration(connection: AsyncConnection) -> str | None:
    """The revision that the database lacks; None when this release can work on its schema.

    Its own schema, or a newer one: migrations only add what the release before can live with
    (docs/migrations.md), so a process of that release which crashes during a roll-out must come
    back.
    """
    applied = None
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is not None:
        applied = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    if applied is None or applied < REVISION:
        return REVISION
    if applied > REVISION:
        log.warning(
            "the schema is at revision %s, of a newer release than this one (%s)", applied, REVISION
        )
    return None


async def schemas_with_our_tables(connection: AsyncConnection) -> list[str]:
    """Schemas outside our search path that have tables of ours."""
    query = """
        SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname IN ('alembic_version', 'jobs', 'steps')
          AND to_regclass('alembic_version') IS NULL
        GROUP BY n.nspname HAVING count(*) = 3 ORDER BY n.nspname
    """
    return list(await connection.scalars(text(query)))
