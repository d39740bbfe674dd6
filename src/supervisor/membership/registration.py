"""One worker per GPU, also where two workers cannot see each other's locks.

Workers that share a lock folder see each other's locks, but containers have a /tmp each. All of
them see the table of workers. So a worker registers only when no live row of another worker shows
one of its GPUs. A row whose heartbeat moves has a living owner: the new worker is refused. A row
whose heartbeat stands still was left by a worker that died, perhaps the one that this worker
replaces. The new worker waits until that worker's lock can be seen and is free, or the row is old,
or it has stood still for so long: where PostgreSQL's clock was set back it would not age.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import anyio

from shared.db.workers import LIVE_S, Worker
from shared.errors import InfraUnavailable
from shared.readiness import NotReady
from shared.timings import TIMINGS
from supervisor.membership.heartbeat import Presence

log = logging.getLogger(__name__)

_POLL_S = 0.5
# A row is old after `LIVE_S`, and a living owner's has moved by then; the rest is for the queries.
REGISTER_S = LIVE_S + 2 * TIMINGS.heartbeat_s


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A heartbeat, and when this worker first saw it."""

    heartbeat_at: datetime | None
    since: float = field(default_factory=anyio.current_time)


async def register_exclusive(
    presence: Presence, *, is_dead: Callable[[UUID], bool], stopping: Callable[[], bool]
) -> None:
    """Write our row when no other worker has one of our GPUs. Raises `NotReady` when one has.

    `is_dead` proves that a worker is dead. Returns early when this worker is told to stop.
    """
    if not presence.gpus:
        return
    seen: dict[UUID, _Seen] = {}
    deadline = math.inf
    while not stopping():
        try:
            owners = await presence.register()
            if not owners:
                return
            why = f"{presence.shared_with(owners[0])}; {_ADVICE}"
            for owner in owners:
                await _check_owner(presence, owner, seen, is_dead)
        except InfraUnavailable as error:
            why = f"DF_DATABASE_URL: {error}"
        # Counted from the first answer: before it, the worker reads every model on the disk.
        deadline = min(deadline, anyio.current_time() + REGISTER_S)
        if anyio.current_time() >= deadline:
            raise NotReady(why)
        await anyio.sleep(_POLL_S)


_ADVICE = (
    "stop that one first, or let each container see GPUs of its own; "
    "workers of one host share one DF_LOCK_DIR"
)


async def _check_owner(
    presence: Presence,
    owner: Worker,
    seen: dict[UUID, _Seen],
    is_dead: Callable[[UUID], bool],
) -> None:
    shared = presence.shared_with(owner)
    if is_dead(owner.id):
        log.warning("%s, which is dead", shared)
        await presence.deregister(owner.id)
    elif owner.id not in seen:
        log.warning("%s; waiting up to %g s to see whether it lives", shared, LIVE_S)
        seen[owner.id] = _Seen(heartbeat_at=owner.heartbeat_at)
    elif owner.heartbeat_at != seen[owner.id].heartbeat_at:
        raise NotReady(f"{shared}, which lives; {_ADVICE}")
    elif anyio.current_time() >= seen[owner.id].since + LIVE_S:
        log.warning("%s, which was not heard of for %g s", shared, LIVE_S)
        await presence.deregister(owner.id)
