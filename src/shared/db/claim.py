"""The claim: whose turn it is, and which step a free slot takes.

Rules of this file
------------------
Among the steps that are due and fit the slot, the next one is found by these rules, in this order:

1. Priority: `high` before `normal` before `low`. But a lower priority of which a step is
   `max_passed_s` old goes first, and of several such the one with the oldest step. It goes in its
   own order. A request with `overdue=False` leaves this rule out: a worker sends one after
   each claim by this rule, so a backlog of `low` takes every other claim and not all of them.
2. User: the smallest virtual time, by `shared.db.shares`. What its steps in flight use is counted
   as they run, and at least as what its executions take on average.
3. Age: the oldest of the user's steps. A chain's later step is as old as its job.
4. Warm models: when the model of that step is not loaded on this host, the user's oldest step of
   the same priority with a loaded one may pass it. It passes at most `PASSES` older steps, and none
   that was passed `PASSED` times before.

How they are found
------------------
The rules order *pairs*: a priority and a user. A loose index scan over `ix_steps_line` finds them
with one descent each, and the oldest step of each that is due and fits: among its first `FRONT`
ones, or, if none of those fits, in its *need classes*. A need class is a pair's steps of one model
and memory. They are a prefix of `ix_steps_waiting`, so that a class is one descent, too, whatever
the number of its steps; a class that the slot cannot serve is one, and its larger siblings none.

The first pair in that order gives its oldest step that no other transaction holds (`SKIP LOCKED`);
if all are held, the next pair does. Claims at the same instant do not see each other, so each may
give its user one step too many; the next claims make up for it.

It locks the job's row and the step's, `FOR NO KEY UPDATE` as everywhere (`shared.db.step_store`).
`epoch` rises with each claim: every later write of an earlier owner is refused. All moments are
PostgreSQL's, so the clock of a worker decides nothing.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, any_, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as UUID_TYPE
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from shared.db import tables as t
from shared.db.claimed_step import pinned_model, read_claim
from shared.db.events import append_events
from shared.db.statement import Statement
from shared.db.stored_json import mapping
from shared.db.stored_values import seconds
from shared.db.tables import NO_MODEL, read
from shared.states import Priority, StepState
from shared.step_store import (
    PASSED,
    PASSES,
    Claim,
    ClaimRequest,
    UpcomingStep,
    claim_events,
)

# So many of a pair's oldest steps are looked at one by one.
FRONT = 32
# Of the steps that are read to find the first ones of the line: so many times as many.
LINE_FACTOR = 8

_MODEL = f"coalesce(s.model_id, '{NO_MODEL}'::uuid)"
_WAITING = "s.state = 'queued' AND s.device = :device"
_OF_PAIR = f"""{_WAITING} AND s.priority = c.priority AND s."user" = c."user\""""
_OF_CLASS = f"{_OF_PAIR} AND {_MODEL} = class.model AND s.vram_bytes = class.vram_bytes"
_FITS = "s.vram_bytes <= :capacity_bytes AND (s.model_id IS NULL OR s.model_id = ANY (:models))"
# LoRAs are in no class: steps whose LoRAs the host lacks are read and left out one by one.
_DUE = "s.run_at <= now() AND (s.loras IS NULL OR s.loras <@ :models)"
_OLDEST_FIRST = "ORDER BY s.created_at, s.id"
_RANK = " ".join(f"WHEN '{each}' THEN {rank}" for rank, each in enumerate(Priority))

# The oldest steps of the pair `c`, whether they fit or not.
_FRONT = f"""
    SELECT s.id, s.model_id, s.loras, s.vram_bytes, s.created_at, s.run_at FROM steps AS s
    WHERE {_OF_PAIR} {_OLDEST_FIRST} LIMIT {FRONT}
"""  # noqa: S608 - constants of this file, as below; every value is a parameter
# The need classes of the pair `c` that fit. One that does not fit ends the look at its model.
_HEAD = f"SELECT {_MODEL} AS model, s.vram_bytes, {_FITS} AS fits FROM steps AS s"  # noqa: S608
_IN_ORDER = f"ORDER BY {_MODEL}, s.vram_bytes LIMIT 1"
_CLASSES = f"""
    WITH RECURSIVE heads AS (
        ({_HEAD} WHERE {_OF_PAIR} {_IN_ORDER})
        UNION ALL
        SELECT following.* FROM heads AS h CROSS JOIN LATERAL (
            {_HEAD} WHERE {_OF_PAIR} AND ({_MODEL}, s.vram_bytes) > (
                h.model, CASE WHEN h.fits THEN h.vram_bytes ELSE 9223372036854775807 END
            ) {_IN_ORDER}
        ) AS following
    )
    SELECT model, vram_bytes FROM heads WHERE fits
"""  # noqa: S608


def _of_each_class(columns: str, rest: str) -> str:
    """The steps of the pair `c` that are due and fit: of each of its classes what `rest` says."""
    return f"""
        SELECT s.* FROM ({_CLASSES}) AS class CROSS JOIN LATERAL (
            SELECT {columns} FROM steps AS s WHERE {_OF_CLASS} AND {_DUE} {rest}
        ) AS s
    """  # noqa: S608


_OLDEST = f"{_MODEL} AS model, s.vram_bytes, s.created_at, s.id"
_FIRST = f"{_OLDEST_FIRST} LIMIT 1"

# `turns`: the pairs with their oldest step, by rules 1 to 3; `passing`: what may pass by rule 4.
_TURNS = f"""
WITH RECURSIVE pairs AS (
    (SELECT s.priority, s."user" FROM steps AS s WHERE {_WAITING}
        ORDER BY s.priority, s."user" LIMIT 1)
    UNION ALL
    SELECT following.* FROM pairs AS p CROSS JOIN LATERAL (
        SELECT s.priority, s."user" FROM steps AS s
        WHERE {_WAITING} AND (s.priority, s."user") > (p.priority, p."user")
        ORDER BY s.priority, s."user" LIMIT 1
    ) AS following
), due AS (
    SELECT c.priority, c."user", oldest.* FROM pairs AS c CROSS JOIN LATERAL (
        (SELECT {_OLDEST} FROM ({_FRONT}) AS s WHERE {_FITS} AND {_DUE} {_FIRST})
        UNION ALL
        ({_of_each_class(_OLDEST, _FIRST)} {_FIRST})
        LIMIT 1
    ) AS oldest
    WHERE (cardinality(:priorities) = 0 OR c.priority = ANY (:priorities))
        AND (cardinality(:users) = 0 OR c."user" = ANY (:users))
), in_flight AS (
    SELECT s."user", max(s.virtual_s) AS virtual_s,
        sum(greatest(extract(epoch FROM now() - s.claimed_at), share.mean_s, 0) / s.weight)
            AS seconds
    FROM steps AS s LEFT JOIN shares AS share ON (share."user", share.device) = (s."user", s.device)
    WHERE s.lease_owner IS NOT NULL AND s.device = :device
    GROUP BY s."user"
), latest AS (
    SELECT greatest(
        (SELECT max(start_s) FROM shares WHERE device = :device),
        (SELECT max(virtual_s) FROM in_flight), 0
    ) AS virtual_s
), users AS (
    SELECT d."user", coalesce(f.seconds, 0) AS ahead_s, coalesce(share.mean_s, 0) AS mean_s,
        CASE WHEN f."user" IS NULL
            AND (share.ended_at IS NULL OR min(d.created_at) > share.ended_at)
        THEN greatest(share.virtual_s, latest.virtual_s)
        ELSE greatest(share.virtual_s, f.virtual_s, 0) END AS virtual_s
    FROM due AS d CROSS JOIN latest
    LEFT JOIN shares AS share ON share."user" = d."user" AND share.device = :device
    LEFT JOIN in_flight AS f ON f."user" = d."user"
    GROUP BY d."user", f."user", f.seconds, f.virtual_s, share.virtual_s, share.mean_s,
        share.ended_at, latest.virtual_s
), priorities AS (
    SELECT priority, overdue, row_number() OVER (ORDER BY overdue DESC,
        CASE WHEN overdue THEN oldest END, CASE priority {_RANK} END) AS turn
    FROM (
        SELECT priority, min(created_at) AS oldest,
            :overdue AND priority <> '{Priority.HIGH}' AND min(created_at) <= now() - :max_passed
                AS overdue
        FROM due GROUP BY priority
    ) AS p
), turns AS (
    SELECT d.*, p.turn, p.overdue, u.virtual_s, u.mean_s, u.virtual_s + u.ahead_s AS start_s,
        row_number() OVER (ORDER BY p.turn, u.virtual_s + u.ahead_s, d.created_at, d.id) AS place
    FROM due AS d JOIN users AS u USING ("user") JOIN priorities AS p USING (priority)
), passing AS (
    SELECT warm.id, older.ids AS older FROM turns AS c
    CROSS JOIN LATERAL (
        SELECT s.* FROM ({_of_each_class(_OLDEST, _FIRST)}) AS s
        WHERE s.model = ANY (:warm) {_FIRST}
    ) AS warm
    CROSS JOIN LATERAL (
        SELECT array_agg(s.id) AS ids, max(s.passed) AS passed FROM (
            {
    _of_each_class(
        "s.id, s.passed",
        f"AND (s.created_at, s.id) < (warm.created_at, warm.id) {_OLDEST_FIRST} LIMIT {PASSES + 1}",
    )
} LIMIT {PASSES + 1}
        ) AS s
    ) AS older
    WHERE c.place = 1 AND c.model <> ALL (:warm)
        AND cardinality(older.ids) <= {PASSES} AND older.passed < {PASSED}
)
"""  # noqa: S608

# What a claim locks, if no other transaction holds it.
_TAKE = "s.id, s.job_id FROM steps AS s JOIN jobs AS j ON j.id = s.job_id"
_FREE = "FOR NO KEY UPDATE OF j, s SKIP LOCKED"

# The nested loop runs in the order of `c` and ends with the first row, and so does each `UNION ALL`
# in it. No ORDER BY outside: a plan that sorted there would lock a step of every pair first.
_NEXT = f"""
{_TURNS}
SELECT step.id, step.job_id, c.virtual_s, c.overdue, step.older
FROM (SELECT * FROM turns ORDER BY place) AS c CROSS JOIN LATERAL (
    SELECT taken.*, passing.older FROM passing CROSS JOIN LATERAL (
        SELECT {_TAKE} WHERE s.id = passing.id AND s.state = 'queued' {_FREE}
    ) AS taken WHERE c.place = 1
    UNION ALL
    SELECT taken.*, NULL FROM (
        SELECT {_TAKE} JOIN ({_FRONT}) AS front ON front.id = s.id
        WHERE s.state = 'queued' AND {_FITS} AND {_DUE}
        ORDER BY front.created_at, front.id LIMIT 1 {_FREE}
    ) AS taken
    UNION ALL
    SELECT taken.*, NULL FROM ({_of_each_class(_OLDEST, _FIRST)} {_OLDEST_FIRST}) AS class
    CROSS JOIN LATERAL (
        SELECT {_TAKE} WHERE {_OF_CLASS} AND {_DUE} {_FIRST} {_FREE}
    ) AS taken
    LIMIT 1
) AS step
LIMIT 1
"""  # noqa: S608

_COLUMNS = "s.id, s.created_at, s.weight"
_AHEAD = """row_number() OVER (PARTITION BY c."user" ORDER BY c.turn, s.created_at, s.id) - 1"""
# As if every step took what its user's take on average. The first steps are those of first pairs.
_UPCOMING = f"""
{_TURNS}, upcoming AS (
    SELECT c.*, s.id AS step_id, s.created_at AS step_created_at, s.weight, {_AHEAD} AS ahead
    FROM turns AS c CROSS JOIN LATERAL (
        {_of_each_class(_COLUMNS, f"{_OLDEST_FIRST} LIMIT :limit")}
        ORDER BY s.id IN (SELECT id FROM passing) DESC, s.created_at, s.id LIMIT :limit
    ) AS s
    WHERE c.place <= :limit
)
SELECT step_id FROM upcoming
ORDER BY step_id IN (SELECT id FROM passing) DESC,
    turn, start_s + ahead * mean_s / weight, step_created_at, step_id
LIMIT :limit
"""  # noqa: S608

# The same for a slot that serves everything, so that no step has to be looked at that does not fit.
_LINE = f"""
{_TURNS}, line AS (
    SELECT c.*, s.id AS step_id, s.created_at AS step_created_at, s.weight, {_AHEAD} AS ahead
    FROM turns AS c CROSS JOIN LATERAL (
        SELECT {_COLUMNS} FROM steps AS s WHERE {_OF_PAIR} AND {_DUE} {_OLDEST_FIRST}
        LIMIT 1 + :limit * {LINE_FACTOR} / (SELECT count(*) FROM turns)
    ) AS s
)
SELECT step_id, overdue FROM line
ORDER BY turn, start_s + ahead * mean_s / weight, step_created_at, step_id
LIMIT :limit
"""  # noqa: S608


def _statement(sql: str) -> Statement:
    texts, ids = ARRAY(Text), ARRAY(UUID_TYPE)
    return Statement(
        text(sql).bindparams(
            bindparam("models", type_=ids),
            bindparam("warm", type_=ids),
            bindparam("priorities", type_=texts),
            bindparam("users", type_=texts),
        )
    )


_NEXT_STATEMENT = _statement(_NEXT)
_UPCOMING_STATEMENT = _statement(_UPCOMING)
_LINE_STATEMENT = _statement(_LINE)


def _parameters(request: ClaimRequest) -> dict[str, Any]:
    return {
        "device": request.device,
        "capacity_bytes": request.capacity_bytes,
        "models": list(request.models),
        "warm": list(request.warm),
        "priorities": list(request.priorities),
        "users": list(request.users),
        "overdue": request.overdue,
        "max_passed": timedelta(seconds=request.max_passed_s),
    }


async def claim_due_step(connection: AsyncConnection, request: ClaimRequest) -> Claim | None:
    """Take the step whose turn it is; None when none is due that fits."""
    turn = await _NEXT_STATEMENT.first(connection, **_parameters(request))
    if turn is None:
        return None
    step = await _take(connection, request, turn)
    if turn.older:
        await _count_as_passed(connection, turn.older)
    claim = await read_claim(connection, step, overdue=turn.overdue)
    if events := claim_events(claim, request.slot):
        await append_events(connection, claim.job_id, events)
    return claim


async def _take(connection: AsyncConnection, request: ClaimRequest, turn: Any) -> Any:
    """Write the ownership; return the step's row, with its seconds of waiting."""
    return await _OWN.one(
        connection,
        step_id=turn.id,
        worker_id=request.worker_id,
        lease=timedelta(seconds=request.lease_s),
        start_s=turn.virtual_s,
    )


_OWN = Statement(
    update(t.steps)
    .where(t.steps.c.id == bindparam("step_id"))
    .values(
        state=StepState.LEASED,
        epoch=t.NEXT_EPOCH,
        lease_owner=bindparam("worker_id", type_=t.steps.c.lease_owner.type),
        lease_expires_at=func.now() + bindparam("lease", type_=Interval),
        claimed_at=func.now(),
        virtual_s=bindparam("start_s", type_=t.steps.c.virtual_s.type),
        updated_at=func.now(),
    )
    .returning(
        *t.steps.c,
        func.coalesce(seconds(func.now(), t.steps.c.vram_wait_since), 0).label("vram_waited_s"),
        func.coalesce(seconds(func.now(), t.steps.c.run_at), 0).label("queued_s"),
    )
)


async def _count_as_passed(connection: AsyncConnection, steps: Sequence[UUID]) -> None:
    """One that another transaction holds is being claimed or ended, and needs no count."""
    free = (
        select(t.steps.c.id)
        .where(t.steps.c.id.in_(steps), t.steps.c.state == StepState.QUEUED)
        .with_for_update(key_share=True, skip_locked=True)
    )
    await connection.execute(
        update(t.steps).where(t.steps.c.id.in_(free)).values(passed=t.steps.c.passed + 1)
    )


async def upcoming_steps(
    connection: AsyncConnection, request: ClaimRequest, limit: int
) -> list[UpcomingStep]:
    """What `claim_due_step` would claim next, in its order, without a lock.

    The first is the one that it would claim now. Those behind it are a forecast.
    """
    found = await _UPCOMING_STATEMENT.all(connection, **_parameters(request), limit=limit)
    ids = [row[0] for row in found]
    if not ids:
        return []
    steps = {row.id: row for row in await _STEPS.all(connection, ids=ids)}
    return [
        read(
            UpcomingStep,
            steps[each],
            model=await pinned_model(connection, steps[each]),
            preset=mapping(steps[each].preset),
            params=mapping(steps[each].params),
        )
        for each in ids
        if each in steps
    ]


_STEPS = Statement(
    select(t.steps).where(t.steps.c.id == any_(bindparam("ids", type_=ARRAY(UUID_TYPE))))
)


async def steps_in_turn(
    connection: AsyncConnection, device: str, *, max_passed_s: float, limit: int
) -> list[UUID]:
    """The first steps that wait for a device of this kind, in the order in which claims take them
    if no other job comes; those that pause before another try are left out.

    Warm models change it by a few places, which nobody can know before. What is read is bounded: of
    more than `LINE_FACTOR` users some may show fewer steps than belong there.
    """
    every_model = list(await connection.scalars(select(t.models.c.id)))
    request = ClaimRequest(
        worker_id=NO_MODEL,
        slot="",
        queues=(),
        device=device,
        capacity_bytes=2**63 - 1,
        models=tuple(every_model),
        lease_s=0.0,
        max_passed_s=max_passed_s,
    )
    rows = await _LINE_STATEMENT.all(connection, **_parameters(request), limit=limit)
    overdue: list[UUID] = []
    others: list[UUID] = []
    for row in rows:
        (overdue if row.overdue else others).append(row.step_id)
    # A slot takes an overdue one at every other claim.
    alternating = [each for pair in zip_longest(overdue, others) for each in pair]
    return [each for each in alternating if each is not None]
