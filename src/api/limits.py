"""How much one user may ask for, and how many streams one process keeps open (`rate_limited`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from shared.db import quotas
from shared.db.engine import Connection
from shared.errors import RateLimited
from shared.settings import Settings

WINDOW_S = 60.0
# When a place becomes free, nobody knows: jobs and streams end when they end.
PAUSE_S = 10


async def enforce_quota(connection: Connection, user: str, settings: Settings) -> None:
    """Raise `RateLimited` when one more job would be too many. Call `quotas.lock_user` before."""
    if most := settings.max_unfinished_jobs:
        used = await quotas.unfinished_jobs(connection, user, up_to=most)
        if used >= most:
            raise _refusal("unfinished_jobs", most, f"{most} jobs wait or run already", PAUSE_S)
    if most := settings.max_jobs_per_minute:
        age_s = await quotas.age_of_job(connection, user, newest=most)
        if age_s is not None and age_s < WINDOW_S:
            pause_s = math.ceil(WINDOW_S - max(age_s, 0.0))
            raise _refusal("jobs_per_minute", most, f"{most} jobs within a minute", pause_s)


def has_quota(settings: Settings) -> bool:
    """Whether there is anything that `enforce_quota` could compare with."""
    return bool(settings.max_unfinished_jobs or settings.max_jobs_per_minute)


class Streams:
    """The open streams of this process."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._open = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place. Raises `RateLimited` when there is none; a maximum of 0 is no bound."""
        most = self._maximum
        if most and self._open >= most:
            raise _refusal("open_streams", most, f"{most} streams are open", PAUSE_S)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


def _refusal(limit: str, maximum: int, what: str, pause_s: int) -> RateLimited:
    return RateLimited(
        f"{what}, and that is the limit; try again in {pause_s} s",
        retry_after_s=pause_s,
        limit=limit,
        maximum=maximum,
        used=maximum,
    )
