"""Events whose commit was not answered: they may be written, and must not be written twice.

When a connection breaks during a commit, its owner does not know whether the commit happened. The
next write of the same claim finds out, under the job's lock. The transaction in doubt held that
lock too, so its events, if they are written, begin at the `seq` that it had; otherwise another
event has that `seq`, or none. Only a claim's owner writes events of these codes for its step, so
one look at that `seq` decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import events as table
from shared.events import NewEvent
from shared.step_store import Claim


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    seq: int  # of the first event
    events: tuple[NewEvent, ...]


class InDoubtWrites:
    """What each claim has sent since its last commit that was answered."""

    def __init__(self) -> None:
        self._sent: dict[tuple[UUID, int], list[_Batch]] = {}

    async def not_yet_written(
        self, connection: AsyncConnection, claim: Claim, events: Sequence[NewEvent]
    ) -> Sequence[NewEvent]:
        """Those of `events` that are not written yet. The caller holds the job's lock.

        A repeated write sends the same events first, in the same order, and perhaps more.
        """
        written = []
        for batch in self._sent.get(_key(claim), ()):
            if await _is_written(connection, claim, batch):
                written.append(batch)
                events = events[len(batch.events) :]
        self._sent[_key(claim)] = written
        return events

    def register(self, claim: Claim, last_seq: int, events: Sequence[NewEvent]) -> None:
        """These are about to be committed, the last of them with `last_seq`."""
        batch = _Batch(seq=last_seq - len(events) + 1, events=tuple(events))
        self._sent.setdefault(_key(claim), []).append(batch)

    def settle(self, claim: Claim) -> None:
        """A commit was answered, or no other write will follow."""
        self._sent.pop(_key(claim), None)


def _key(claim: Claim) -> tuple[UUID, int]:
    return claim.step_id, claim.epoch


async def _is_written(connection: AsyncConnection, claim: Claim, batch: _Batch) -> bool:
    first = batch.events[0]
    seq = await connection.scalar(
        select(table.c.seq).where(
            table.c.job_id == claim.job_id,
            table.c.seq == batch.seq,
            table.c.step_id == claim.step_id,
            table.c.code == first.code,
            table.c.message == first.message,
        )
    )
    return seq is not None
