"""Webhooks that are due, sent, or given up: a row for each fact that a job's receiver wants.

Theory of operation
-------------------
`enqueue` writes the rows in the transaction of the fact, under the job's row lock. Of a job's rows
that wait, only the first one has a `next_at`: it alone is claimed, so a receiver gets a job's
facts in their order. Its end, sent or given up, gives the next row its turn. A row that is written
at that moment would be overlooked, so its writer first locks the one that has the turn, or sees
that none waits. Who sends never locks a job: a worker that claims steps skips jobs that are locked.

A claim is `next_at` moved on by a lease. A process that dies loses nothing: its rows are due again
when the lease is over. So a message may be sent twice, with one id.

`shared.db.delivery_claim` has the claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.stored_json import Webhook, error_of
from shared.db.tables import columns_of, read
from shared.errors import Conflict, NotFound
from shared.events import Code, NewEvent
from shared.states import DeliveryState
from shared.webhooks import WebhookEvent

# A message is tried again for so long.
TRIED_S = 24 * 3600.0
# Counting stops here, as for the queue.
MAX_COUNTED = 1_000
# Of an error's message: what a provider says may be long, and receivers bound what they read.
MAX_MESSAGE = 1_000
_EVENT_OF: dict[str, WebhookEvent] = {
    Code.STEP_START: WebhookEvent.START,
    Code.ARTIFACT_WRITTEN: WebhookEvent.ARTIFACT,
    Code.JOB_FINISH: WebhookEvent.END,
}
_ID_PREFIX = "msg_"
_MOST_SEQ = 2**63 - 1  # what the column holds
# What a message says of its job.
_OF_JOB = [
    t.jobs.c[name] for name in ("id", "type", "user", "status", "reason", "count", "tags", "error")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message. `url` is the job's, `attempts` counts the one that is under way."""

    job_id: UUID
    seq: int
    user: str
    host: str
    event: WebhookEvent
    payload: dict[str, Any]
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_at: datetime | None
    last_error: str | None
    url: str

    @property
    def id(self) -> str:
        """`webhook-id`: the same for each attempt."""
        return f"{_ID_PREFIX}{self.job_id.hex}_{self.seq}"


def parse_id(text: str) -> tuple[UUID, int]:
    """Job and number of a message. Raises `NotFound` for a text that is no id."""
    job, _, seq = text.removeprefix(_ID_PREFIX).partition("_")
    try:
        parsed = UUID(hex=job), int(seq)
    except ValueError:
        raise NotFound(f"{text} is no id of a webhook") from None
    if not 0 < parsed[1] <= _MOST_SEQ:
        raise NotFound(f"{text} is no id of a webhook")
    return parsed


# With the fact ------------------------------------------------------------------------------------


async def enqueue(
    connection: AsyncConnection,
    job_id: UUID,
    webhook: Webhook,
    recorded: Sequence[tuple[int, NewEvent]],
) -> None:
    """Write what the receiver wants of these events. The caller holds the job's row lock.

    `recorded` are events with their `seq`. A job that is tried again has begun before.
    """
    wanted = [
        (seq, event, kind)
        for seq, event in recorded
        if (kind := _EVENT_OF.get(event.code)) is not None and kind in webhook["events"]
    ]
    if not wanted:
        return
    begun = exists().where(
        t.deliveries.c.job_id == job_id, t.deliveries.c.event == WebhookEvent.START
    )
    query = select(*_OF_JOB, begun.label("begun")).where(t.jobs.c.id == job_id)
    row = (await connection.execute(query)).one()
    first = not await _lock_turn(connection, job_id)
    for seq, event, kind in wanted:
        if kind is WebhookEvent.START and row.begun:
            continue
        await connection.execute(
            insert(t.deliveries).values(
                job_id=job_id,
                seq=seq,
                user=row.user,
                host=urlsplit(webhook["url"]).netloc.lower(),
                event=kind,
                payload=_payload(row, event, kind),
                state=DeliveryState.WAITING,
                next_at=func.now() if first else None,
                expires_at=_from_now(TRIED_S),
            )
        )
        first = False


async def _lock_turn(connection: AsyncConnection, job_id: UUID) -> bool:
    """Keep the job's message whose turn it is from ending; False: none of them waits.

    The caller holds the job's row lock, so nothing begins to wait meanwhile.
    """
    mine = t.deliveries.c.job_id == job_id
    turn = select(t.deliveries.c.seq).where(mine, t.deliveries.c.next_at.is_not(None))
    waiting = select(exists().where(mine, t.deliveries.c.state == DeliveryState.WAITING))
    while await connection.scalar(turn.with_for_update(read=True)) is None:
        # None waits, or it ended while we asked and the turn is another one's.
        if not await connection.scalar(waiting):
            return False
    return True


def _payload(row: Any, event: NewEvent, kind: WebhookEvent) -> dict[str, Any]:
    """`data` of the message: what the job is at this moment, without its prompt."""
    error = None
    if row.error is not None:
        stored = error_of(row.error)
        error = {"code": stored["code"], "message": stored["message"][:MAX_MESSAGE]}
    job = {"id": str(row.id), "type": row.type, "status": row.status, "reason": row.reason}
    job |= {"count": row.count, "tags": row.tags, "error": error}
    if kind is not WebhookEvent.ARTIFACT:
        return {"job": job}
    return {"job": job, "artifact": {"item_index": event.item_index, **(event.payload or {})}}


# By who sends -------------------------------------------------------------------------------------


async def delivered(connection: AsyncConnection, delivery: Delivery) -> None:
    """The receiver has it, though perhaps after it was given up."""
    mine = _is(delivery.job_id, delivery.seq)
    end = update(t.deliveries).values(_ended(DeliveryState.DELIVERED, None))
    in_turn = await connection.execute(end.where(mine, t.deliveries.c.next_at.is_not(None)))
    if in_turn.rowcount:
        await _next_turn(connection, delivery.job_id)
    else:
        await connection.execute(end.where(mine, t.deliveries.c.state != DeliveryState.DELIVERED))


async def failed(
    connection: AsyncConnection, delivery: Delivery, why: str, *, pause_s: float | None
) -> DeliveryState | None:
    """This attempt failed: try again after `pause_s`, None means never; its state then.

    None where the attempt is not the newest any more: its lease was over.
    """
    expires_at = t.deliveries.c.expires_at
    mine = _is(delivery.job_id, delivery.seq) & (t.deliveries.c.attempts == delivery.attempts)
    mine &= t.deliveries.c.next_at.is_not(None)
    if pause_s is not None:
        again = await connection.execute(
            update(t.deliveries)
            .where(mine, expires_at > func.now())
            .values(last_error=why, next_at=func.least(_from_now(pause_s), expires_at))
        )
        if again.rowcount:
            return DeliveryState.WAITING
    dead = await connection.execute(
        update(t.deliveries).where(mine).values(_ended(DeliveryState.DEAD, why))
    )
    if not dead.rowcount:
        return None
    await _next_turn(connection, delivery.job_id)
    return DeliveryState.DEAD


async def _next_turn(connection: AsyncConnection, job_id: UUID) -> None:
    """Make the job's next message due. The caller has ended the one before, and holds its lock."""
    first = select(func.min(t.deliveries.c.seq)).where(
        t.deliveries.c.job_id == job_id, t.deliveries.c.state == DeliveryState.WAITING
    )
    await connection.execute(
        update(t.deliveries).where(_is(job_id, first.scalar_subquery())).values(next_at=func.now())
    )


async def backlog(connection: AsyncConnection) -> int:
    """Messages that wait, at most `MAX_COUNTED`."""
    some = (
        select(t.deliveries.c.seq)
        .where(text("state = 'waiting'"))
        .order_by(t.deliveries.c.created_at)
        .limit(MAX_COUNTED)
        .subquery()
    )
    return (await connection.execute(select(func.count()).select_from(some))).scalar_one()


# By the operator ----------------------------------------------------------------------------------


async def page(
    connection: AsyncConnection, state: DeliveryState, *, limit: int, user: str | None = None
) -> list[Delivery]:
    """Up to `limit` messages of one user or of all (None) in this state, the latest first."""
    whose = [] if user is None else [t.deliveries.c.user == user]
    rows = await connection.execute(
        _deliveries()
        .where(t.deliveries.c.state == state, *whose)
        .order_by(t.deliveries.c.created_at.desc(), t.deliveries.c.job_id, t.deliveries.c.seq)
        .limit(limit)
    )
    return [delivery_of(row) for row in rows.mappings()]


async def replay(
    connection: AsyncConnection, job_id: UUID, seq: int, *, user: str | None = None
) -> Delivery:
    """Send a dead message again, with its id, for another day. Raises `NotFound`, also for another
    user's, and `Conflict`."""
    await _lock_job(connection, job_id)
    await _dead(connection, job_id, seq, user)
    behind = await _lock_turn(connection, job_id)
    await connection.execute(
        update(t.deliveries)
        .where(_is(job_id, seq))
        .values(
            state=DeliveryState.WAITING,
            ended_at=None,
            attempts=0,
            next_at=None if behind else func.now(),
            expires_at=_from_now(TRIED_S),
        )
    )
    return await _get(connection, job_id, seq)


async def drop(connection: AsyncConnection, job_id: UUID, seq: int) -> None:
    """Delete a dead message. Raises `NotFound`, `Conflict`."""
    await _lock_job(connection, job_id)
    await _dead(connection, job_id, seq)
    await connection.execute(delete(t.deliveries).where(_is(job_id, seq)))


async def _dead(
    connection: AsyncConnection, job_id: UUID, seq: int, user: str | None = None
) -> None:
    found = await _get(connection, job_id, seq)
    if user not in (None, found.user):
        raise _no_such_webhook()
    if found.state is not DeliveryState.DEAD:
        raise Conflict(f"{found.id} is {found.state}, and no dead letter")


async def _get(connection: AsyncConnection, job_id: UUID, seq: int) -> Delivery:
    row = (await connection.execute(_deliveries().where(_is(job_id, seq)))).mappings().first()
    if row is None:
        raise _no_such_webhook()
    return delivery_of(row)


def _no_such_webhook() -> NotFound:
    return NotFound("there is no such webhook, or its job is gone")


def _deliveries() -> Any:
    url = t.jobs.c.webhook["url"].astext.label("url")
    return select(*columns_of(t.deliveries, Delivery), url).join(t.jobs)


def delivery_of(row: Any) -> Delivery:
    """A message, from its row with its `url`."""
    return read(
        Delivery,
        row,
        url=row["url"],
        event=WebhookEvent(row["event"]),
        state=DeliveryState(row["state"]),
    )


def _ended(state: DeliveryState, why: str | None) -> dict[str, Any]:
    return {"state": state, "next_at": None, "ended_at": func.now(), "last_error": why}


def _is(job_id: UUID, seq: Any) -> ColumnElement[bool]:
    return and_(t.deliveries.c.job_id == job_id, t.deliveries.c.seq == seq)


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=seconds)


async def _lock_job(connection: AsyncConnection, job_id: UUID) -> None:
    await connection.execute(
        select(t.jobs.c.id).where(t.jobs.c.id == job_id).with_for_update(key_share=True)
    )
