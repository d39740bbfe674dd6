"""One worker per GPU, also where two cannot see each other's locks.

The file that a worker locks is seen by who shares its folder, and containers have a /tmp each. The
table of workers is seen by all of them. So a worker enters it only when no live row of another one
shows a GPU of its own. A heartbeat that moves is a living owner's: we are refused. One that stands
still is what a worker leaves that died without a word, perhaps the very one that we replace, and is
waited out: until its lock can be seen and is free, or else until the row is old.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import anyio

from shared.db.workers import LIVE_S, Worker
from shared.errors import InfraUnavailable
from shared.readiness import NotReady
from shared.timings import TIMINGS
from supervisor.membership.heartbeat import Presence

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
# A row is old after `LIVE_S`, and a living owner's has moved before; the rest is for the queries.
REGISTER_S = LIVE_S + 2 * TIMINGS.heartbeat_s


async def register_exclusive(
    presence: Presence, *, died: Callable[[UUID], bool], stopping: Callable[[], bool]
) -> None:
    """Write our row when no other worker has a GPU of ours. Raises `NotReady` when one has.

    `died` says of a worker that it is dead for certain. Returns early when we are to stop.
    """
    if not presence.gpus:
        return
    seen_heartbeats: dict[UUID, datetime | None] = {}
    deadline = math.inf
    while not stopping():
        try:
            owners = await presence.register()
            if not owners:
                return
            why = f"{presence.shared_with(owners[0])}; {_ADVICE}"
            for owner in owners:
                await _look_at(presence, owner, seen_heartbeats, died)
        except InfraUnavailable as error:
            why = f"DF_DATABASE_URL: {error.message}"
        # Counted from the first answer: before it, every model on the disk was looked at.
        deadline = min(deadline, anyio.current_time() + REGISTER_S)
        if anyio.current_time() >= deadline:
            raise NotReady(why)
        await anyio.sleep(_LOOK_EVERY_S)


_ADVICE = (
    "stop that one first, or let each container see GPUs of its own; "
    "workers of one host share one DF_LOCK_DIR"
)


async def _look_at(
    presence: Presence,
    owner: Worker,
    seen_heartbeats: dict[UUID, datetime | None],
    died: Callable[[UUID], bool],
) -> None:
    words = presence.shared_with(owner)
    if died(owner.id):
        log.warning("%s, which is dead", words)
        await presence.deregister_dead(owner)
    elif owner.id not in seen_heartbeats:
        log.warning("%s; waiting up to %g s to see whether it lives", words, LIVE_S)
        seen_heartbeats[owner.id] = owner.heartbeat_at
    elif owner.heartbeat_at != seen_heartbeats[owner.id]:
        raise NotReady(f"{words}, which lives; {_ADVICE}")
