"""How much one user may ask for, and how many streams one process keeps open (`rate_limited`)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from shared.db import jobs
from shared.db.engine import Connection
from shared.errors import RateLimited
from shared.settings import Settings

WINDOW_S = 60.0
# It is unknown when a place becomes free: jobs and streams end when they end.
PAUSE_S = 10
# What a limit counts, as its refusal names it.
_IN_USE = {
    "unfinished_jobs": "jobs wait or run already",
    "jobs_per_minute": "jobs within a minute",
    "open_streams": "streams are open",
}


async def enforce_quota(connection: Connection, user: str, settings: Settings) -> None:
    """Raise `RateLimited` when one more job would be too many. Call `jobs.lock_user` before."""
    if maximum := settings.max_unfinished_jobs:
        used = await jobs.unfinished_jobs(connection, user, up_to=maximum)
        if used >= maximum:
            raise limit_reached("unfinished_jobs", maximum)
    if maximum := settings.max_jobs_per_minute:
        age_s = await jobs.age_of_job(connection, user, newest=maximum)
        if age_s is not None and age_s < WINDOW_S:
            pause_s = math.ceil(WINDOW_S - max(age_s, 0.0))
            raise limit_reached("jobs_per_minute", maximum, pause_s)


def has_quota(settings: Settings) -> bool:
    """Whether `enforce_quota` has a limit to compare with."""
    return bool(settings.max_unfinished_jobs or settings.max_jobs_per_minute)


class Streams:
    """The open streams of this process."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._open = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place. Raises `RateLimited` when there is none; a maximum of 0 is no limit."""
        maximum = self._maximum
        if maximum and self._open >= maximum:
            raise limit_reached("open_streams", maximum)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


def limit_reached(limit: str, maximum: int, pause_s: int = PAUSE_S) -> RateLimited:
    return RateLimited(
        f"{maximum} {_IN_USE[limit]}, and that is the limit; try again in {pause_s} s",
        retry_after_s=pause_s,
        limit=limit,
        maximum=maximum,
        used=maximum,
    )
