"""Rows of a queue, made by PostgreSQL itself: a million take some tens of seconds.

Every job has one step, on the device `cuda`. The rows are what creates, claims and ends leave
behind; of events only those that the pruner leaves to a job that ended, if at all. Times lie in the
past, the first job is the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

# A slot of the benchmark has this much; what must not fit needs more.
CAPACITY_BYTES = 24_000_000_000
MODELS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """`waiting` steps in `classes` need classes; those that fit no slot are older, and on top."""

    waiting: int
    classes: int = 1
    unfit: int = 0
    ended: int = 0
    events: bool = False


# Ten models, two priorities, and as many users as the classes ask for.
_MODEL = "('00000000-0000-4000-8000-' || lpad(({n} % 10)::text, 12, '0'))::uuid"
_MODELS = f"""
INSERT INTO models (id, name, version, kind, checkpoint_sha256, descriptor, parameters_schema,
    capabilities)
SELECT {_MODEL.format(n="n")}, 'model' || n, '1', 'sd', repeat('0', 64), '{{}}', '{{}}',
    '["generate"]'
FROM generate_series(0, {MODELS - 1}) AS n
"""
_JOBS = """
INSERT INTO jobs (id, type, "user", priority, status, reason, request, count, correlation_id,
    created_at, updated_at, finished_at)
SELECT ('{prefix}-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'generate',
    'user' || (n / 20 % greatest({classes} / 20, 1)),
    CASE WHEN n / 10 % 2 = 0 THEN 'normal' ELSE 'low' END,
    '{status}', {reason}, '{{"type": "generate", "prompt": "a red apple"}}', 1, 'bench',
    {moment}, {moment}, {finished}
FROM generate_series(0, {last}) AS n
"""
_STEPS = """
INSERT INTO steps (id, job_id, position, name, type, params, device, preset, vram_bytes, timeout_s,
    model_id, checkpoint_sha256, "user", priority, state, reason, run_at, created_at, finished_at)
SELECT j.id, j.id, 0, 'generate', 'generate', j.request, 'cuda', '{{"name": "gpu"}}',
    {vram_bytes}, 600, {model}, repeat('0', 64), j."user", j.priority, '{state}', j.reason,
    j.created_at, j.created_at, j.finished_at
FROM jobs AS j CROSS JOIN LATERAL (SELECT right(j.id::text, 12)::bigint AS n) AS numbered
WHERE j.id BETWEEN '{prefix}-0000-4000-8000-000000000000' AND '{prefix}-0000-4000-8000-999999999999'
"""


_EVENTS = """
INSERT INTO events (job_id, seq, ts, level, code, message)
SELECT id, seq, finished_at, 'INFO', 'progress', 'progress at the end'
FROM jobs CROSS JOIN generate_series(8, 10) AS seq WHERE status = 'succeeded'
"""


def make(url: str, rows: Rows) -> None:
    """Empty the tables and fill them; then vacuum and analyze, as autovacuum would have."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE jobs, steps, events, artifacts, models, workers, shares CASCADE"
        )
        connection.execute(_MODELS.encode())
        with _without_indexes(connection):
            _insert(connection, rows.ended, "00000001", "succeeded", 1)
            _insert(connection, rows.unfit, "00000002", "queued", rows.classes, unfit=True)
            _insert(connection, rows.waiting, "00000003", "queued", rows.classes)
        if rows.events:
            connection.execute(_EVENTS.encode())
        for table in ("jobs", "steps", "events", "shares", "models"):
            connection.execute(f"VACUUM ANALYZE {table}".encode())


@contextmanager
def _without_indexes(connection: psycopg.Connection) -> Iterator[None]:
    """Drop what is no constraint's, and look up no foreign key; all is there again afterwards."""
    found = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('jobs', 'steps')"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    ).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX {name}".encode())
    connection.execute("SET session_replication_role = replica")
    try:
        yield
    finally:
        connection.execute("SET session_replication_role = origin")
        for _, definition in found:
            connection.execute(definition.encode())


def _insert(
    connection: psycopg.Connection,
    count: int,
    prefix: str,
    status: str,
    classes: int,
    *,
    unfit: bool = False,
) -> None:
    if count == 0:
        return
    ended = status != "queued"
    days = 3 if ended else 2 if unfit else 1
    moment = f"now() - interval '{days} hours' + n * interval '1 hour' / {count}"
    facts = {"prefix": prefix, "classes": classes, "last": count - 1}
    jobs = _JOBS.format(
        status=status,
        reason="'completed'" if ended else "NULL",
        moment=moment,
        finished=moment if ended else "NULL",
        **facts,
    )
    steps = _STEPS.format(
        state=status,
        model=_MODEL.format(n="n") if classes > 1 else _MODEL.format(n="0"),
        vram_bytes=CAPACITY_BYTES * (2 if unfit else 1) // 2 + int(unfit),
        **facts,
    )
    connection.execute(jobs.encode())
    connection.execute(steps.encode())


def end_all(url: str, *, at_once: int, vacuum: bool = False) -> Iterator[int]:
    """End every step that fits no slot, and leave the dead rows where they are.

    A statement ends `at_once` of them, the oldest first; yields how many that were. With `vacuum`
    the dead rows of all statements but the last are gone, as after a round of autovacuum.
    """
    oldest = "SELECT id FROM steps WHERE state = 'queued' AND vram_bytes > %s ORDER BY run_at"
    left = f"{oldest} LIMIT 1".encode()
    with psycopg.connect(url, autocommit=True) as connection:
        while ended := connection.execute(
            "UPDATE steps SET state = 'cancelled', reason = 'cancelled', finished_at = now()"
            f" WHERE id IN ({oldest} LIMIT %s)".encode(),
            (CAPACITY_BYTES, at_once),
        ).rowcount:
            yield ended
            if vacuum and connection.execute(left, (CAPACITY_BYTES,)).fetchone():
                connection.execute("VACUUM steps")
