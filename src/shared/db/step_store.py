"""Every statement about owned steps: renew, record, finish; the claim is in `shared.db.claim`.

Rules of this file
------------------
* Lock order: the job's row first (`FOR NO KEY UPDATE`, never `FOR UPDATE`: an insert of a child row
  needs a key share lock on it), then its steps by id. Transactions that follow it cannot deadlock.
* Ownership is judged by the step's row as it is once both locks are held. The statement that waits
  for the job's lock has an old snapshot, and a rescuer may commit meanwhile. It locks the step's
  row as well: PostgreSQL then reads that row again, and judges the condition by what it reads.
* Time is PostgreSQL's `now()`. No clock of a worker is ever stored.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import rescue
from shared.db import tables as t
from shared.db.artifacts import insert_artifact
from shared.db.claim import claim_due_step, upcoming_steps
from shared.db.engine import Database
from shared.db.events import append_events
from shared.db.in_doubt import InDoubtWrites
from shared.db.statement import Statement
from shared.db.transitions import end_step
from shared.events import NewEvent
from shared.states import OWNED, Status, StepState
from shared.step_store import (
    AttemptResult,
    CancelRequested,
    Claim,
    ClaimRequest,
    Decide,
    Rescue,
    Stale,
    StoredArtifact,
    UpcomingStep,
)


class PostgresStepStore:
    """`StepStore` on the system of record."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._in_doubt = InDoubtWrites()

    async def claim(self, request: ClaimRequest) -> Claim | None:
        return await self.database.transaction(claim_due_step, request)

    async def due_next(self, request: ClaimRequest, limit: int) -> Sequence[UpcomingStep]:
        return await self.database.transaction(upcoming_steps, request, limit)

    async def commit_running(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        await self.database.transaction(_start, claim, events)

    async def record(
        self, claim: Claim, state: StepState | None, events: Sequence[NewEvent]
    ) -> None:
        async def work(connection: AsyncConnection) -> None:
            await _lock(connection, claim)
            if state is not None:
                await _SET_STATE.run(connection, step_id=claim.step_id, new_state=state)
            left = await self._in_doubt.not_yet_written(connection, claim, events)
            if left:
                last_seq = await append_events(connection, claim.job_id, left)
                self._in_doubt.register(claim, last_seq, left)

        await self.database.transaction(work)
        self._in_doubt.settle(claim)

    async def renew(self, claim: Claim, lease_s: float) -> None:
        await self.database.transaction(_renew, claim, lease_s)

    async def add_artifact(self, claim: Claim, artifact: StoredArtifact, event: NewEvent) -> bool:
        return await self.database.transaction(_add_artifact, claim, artifact, event)

    async def finish(self, claim: Claim, end: AttemptResult) -> UUID | None:
        async def work(connection: AsyncConnection) -> UUID | None:
            try:
                row = await _lock(connection, claim, _LOCK_AND_READ)
            except Stale:
                return await _ended_before(connection, claim, end)
            if end.state is StepState.QUEUED and row.cancel_requested_at is not None:
                # The cancel came after the owner last looked. Under the job's lock it is not late.
                raise CancelRequested
            left = await self._in_doubt.not_yet_written(connection, claim, end.events)
            return await end_step(connection, row, replace(end, events=left))

        try:
            following = await self.database.transaction(work)
        except Stale:
            self._in_doubt.settle(claim)
            raise
        self._in_doubt.settle(claim)
        return following

    async def requested_cancels(self, worker_id: UUID) -> set[UUID]:
        return await self.database.transaction(_requested_cancels, worker_id)

    async def release_unacknowledged(
        self, worker_id: UUID, known: Collection[tuple[UUID, int]]
    ) -> int:
        count = 0
        while await self.database.transaction(rescue.release_unacknowledged, worker_id, known):
            count += 1
        return count

    async def rescue_expired(self, decide: Decide) -> Rescue | None:
        return await self.database.transaction(rescue.expired_lease, decide)

    async def rescue_unclaimed(self, decide: Decide, after_s: float) -> Rescue | None:
        return await self.database.transaction(rescue.unclaimed, decide, after_s=after_s)


async def _start(connection: AsyncConnection, claim: Claim, events: Sequence[NewEvent]) -> None:
    step = await _lock(connection, claim)
    if step.state != StepState.LEASED:
        # Our own commit of a moment ago, whose answer was lost; or it is being stopped.
        return
    await _START_STEP.run(connection, step_id=claim.step_id)
    await _START_JOB.run(connection, job_id=claim.job_id)
    await append_events(connection, claim.job_id, events)


async def _renew(connection: AsyncConnection, claim: Claim, lease_s: float) -> None:
    # One statement on the step alone: it takes no job lock, so a stream of events cannot delay
    # it, and the condition is on the very row that it locks.
    if not await _RENEW.run(connection, **_ownership(claim), lease=timedelta(seconds=lease_s)):
        raise Stale


async def _add_artifact(
    connection: AsyncConnection, claim: Claim, artifact: StoredArtifact, event: NewEvent
) -> bool:
    try:
        await _lock(connection, claim)
    except Stale:
        if await _has_key(connection, claim, artifact):
            return True
        raise
    inserted = await insert_artifact(
        connection,
        job_id=claim.job_id,
        step_id=claim.step_id,
        step=claim.name,
        artifact=artifact,
    )
    if inserted:
        await append_events(connection, claim.job_id, [event])
    return inserted or await _has_key(connection, claim, artifact)


async def _has_key(connection: AsyncConnection, claim: Claim, artifact: StoredArtifact) -> bool:
    """Whether the item's object is this one: our own commit, whose answer was lost."""
    key = await _KEY.scalar(
        connection,
        job_id=claim.job_id,
        step_id=claim.step_id,
        item_index=artifact.item_index,
    )
    return key == artifact.s3_key


async def _requested_cancels(connection: AsyncConnection, worker_id: UUID) -> set[UUID]:
    rows = await _CANCELS.all(connection, worker_id=worker_id)
    return {row.id for row in rows}


async def _ended_before(
    connection: AsyncConnection, claim: Claim, end: AttemptResult
) -> UUID | None:
    """What our own commit of this end came to, whose answer was lost; `Stale` if it is not ours.

    A new owner or a rescuer would have raised the epoch.
    """
    state = await connection.scalar(
        select(t.steps.c.state).where(t.steps.c.id == claim.step_id, t.steps.c.epoch == claim.epoch)
    )
    if state == end.state:
        return claim.step_id if state == StepState.QUEUED else await _next(connection, claim)
    if end.state is StepState.QUEUED and state == StepState.CANCELLED:
        raise CancelRequested
    raise Stale


async def _next(connection: AsyncConnection, claim: Claim) -> UUID | None:
    """The step after this one, if its turn came."""
    return await connection.scalar(
        select(t.steps.c.id).where(
            t.steps.c.job_id == claim.job_id,
            t.steps.c.position == claim.position + 1,
            t.steps.c.state != StepState.CANCELLED,
        )
    )


async def _lock(
    connection: AsyncConnection, claim: Claim, statement: Statement | None = None
) -> Any:
    """Lock the job, then the step; return the step's state, or what `statement` reads of it.

    Raises `Stale` if the step is not ours.
    """
    row = await (statement or _LOCK).first(connection, **_ownership(claim))
    if row is None:
        raise Stale
    return row


def _ownership(claim: Claim) -> dict[str, Any]:
    return {"step_id": claim.step_id, "claim_epoch": claim.epoch, "owner": claim.lease_owner}


# The statements -----------------------------------------------------------------------------------

_STEP_ID = bindparam("step_id", type_=t.steps.c.id.type)
_OF_STEP = t.steps.c.id == _STEP_ID
_IS_OURS = (
    _OF_STEP
    & (t.steps.c.epoch == bindparam("claim_epoch", type_=t.steps.c.epoch.type))
    # A failover may lose the last commits. Another worker then claims with the same epoch.
    & (t.steps.c.lease_owner == bindparam("owner", type_=t.steps.c.lease_owner.type))
    & text(t.one_of("steps.state", sorted(OWNED)))
)


def _locking(*columns: Any) -> Statement:
    both = select(*columns).select_from(t.jobs.join(t.steps, t.steps.c.job_id == t.jobs.c.id))
    # Locked in this order.
    return Statement(both.where(_IS_OURS).with_for_update(of=(t.jobs, t.steps), key_share=True))


_LOCK = _locking(t.steps.c.state)
_LOCK_AND_READ = _locking(*t.steps.c)
_RENEW = Statement(
    update(t.steps)
    .where(_IS_OURS)
    .values(lease_expires_at=func.now() + bindparam("lease", type_=Interval))
)
_SET_STATE = Statement(
    update(t.steps)
    .where(_OF_STEP)
    .values(state=bindparam("new_state", type_=t.steps.c.state.type), updated_at=func.now())
)
_START_STEP = Statement(
    update(t.steps)
    .where(_OF_STEP)
    .values(
        state=StepState.RUNNING,
        attempt=func.least(t.steps.c.attempt, t.MOST_TRIES - 1) + 1,
        started_at=func.coalesce(t.steps.c.started_at, func.now()),
        attempt_started_at=func.now(),
        vram_wait_since=None,
        updated_at=func.now(),
    )
)
_START_JOB = Statement(
    update(t.jobs)
    .where(t.jobs.c.id == bindparam("job_id"), t.jobs.c.status == Status.QUEUED)
    .values(status=Status.RUNNING, updated_at=func.now())
)
_KEY = Statement(
    select(t.artifacts.c.s3_key).where(
        t.artifacts.c.job_id == bindparam("job_id"),
        t.artifacts.c.step_id == bindparam("step_id"),
        t.artifacts.c.item_index == bindparam("item_index"),
    )
)
_CANCELS = Statement(
    select(t.steps.c.id).where(
        t.steps.c.lease_owner == bindparam("worker_id"),
        t.steps.c.cancel_requested_at.is_not(None),
    )
)
