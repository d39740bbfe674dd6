"""How much one user may ask for, and how many streams and waits one process keeps open: what
`rate_limited` stands for.

A user's unfinished jobs are their rows, so the limit holds over all api processes and restarts.
Near the limit each create counts them, under a lock of the user. Far from it neither is needed: a
count stays good for as long as it would take to fill what is left. `UnfinishedJobs` knows which.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shared.db import jobs
from shared.db.engine import Connection
from shared.errors import RateLimited
from shared.settings import Settings

UNFINISHED_JOBS = "unfinished_jobs"  # the limit, as a refusal names it
WINDOW_S = 60.0
# Where it is unknown when a place becomes free.
PAUSE_S = 10
# What a limit counts, as its refusal names it.
_IN_USE = {
    UNFINISHED_JOBS: "jobs wait or run already",
    "jobs_per_minute": "jobs within a minute",
    "open_streams": "streams, waiting calls and uploads are open",
}


# More creates a second than all api processes of an installation manage together for one user.
MOST_PER_S = 2000
# Within so many of the limit a create is counted under the lock: the work of a second.
MARGIN = MOST_PER_S


async def enforce_quota(connection: Connection, user: str, settings: Settings) -> int | None:
    """Raise `RateLimited` when one more job would be too many. Call `jobs.lock_user` before.

    Returns how many unfinished jobs there are, if they are limited.
    """
    used, policy = None, settings.policy_of(user)
    if maximum := policy.unfinished:
        used = await jobs.unfinished_jobs(connection, user, up_to=maximum)
        if used >= maximum:
            raise limit_reached(UNFINISHED_JOBS, maximum)
    if maximum := policy.per_minute:
        age_s = await jobs.age_of_job(connection, user, newest=maximum)
        if age_s is not None and age_s < WINDOW_S:
            pause_s = math.ceil(WINDOW_S - max(age_s, 0.0))
            raise limit_reached("jobs_per_minute", maximum, pause_s)
    return used


def has_quota(settings: Settings, user: str) -> bool:
    """Whether `enforce_quota` has a limit to compare with."""
    policy = settings.policy_of(user)
    return bool(policy.unfinished or policy.per_minute)


@dataclass(slots=True)
class _Count:
    used: int
    good_until: float


class UnfinishedJobs:
    """What this process knows of each user's unfinished jobs. `clock` counts seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    def far_below(self, user: str) -> int:
        """Fewer than these are far from the limit."""
        return self._maximum(user) - MARGIN

    def near(self, user: str) -> bool:
        """Whether a create of this user must be counted under the lock."""
        if self._settings.policy_of(user).per_minute:
            return True  # too few jobs to look at now and then
        if not self._maximum(user):
            return False
        far_below = self.far_below(user)
        return far_below <= 0 or (self._is_good(user) and self._used(user) >= far_below)

    def count_below(self, user: str) -> int | None:
        """For a user who is not near the limit: what a create counts up to; None: it need not."""
        return None if not self._maximum(user) or self._is_good(user) else self.far_below(user)

    def record(self, user: str, used: int | None) -> None:
        """A job was created; before it there were `used`, if they were counted."""
        if used is not None:
            left_s = max(0, self._maximum(user) - used) / MOST_PER_S
            self._counts[user] = _Count(used, self._clock() + left_s)
        if user in self._counts:
            self._counts[user].used += 1

    def _maximum(self, user: str) -> int:
        return self._settings.policy_of(user).unfinished or 0

    def _is_good(self, user: str) -> bool:
        return user in self._counts and self._clock() < self._counts[user].good_until

    def _used(self, user: str) -> int:
        return self._counts[user].used


class Streams:
    """The open streams, waiting calls and uploads of this process, of all users and of each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = Counter[str]()

    @contextmanager
    def place(self, user: str) -> Iterator[None]:
        """Hold one place. Raises `RateLimited` when there is none; a maximum of 0 is no limit."""
        own = self._settings.policy_of(user).streams
        if own and self._open[user] >= own:
            raise limit_reached("open_streams", own)
        maximum = self._settings.max_streams
        if maximum and self._open.total() >= maximum:
            raise limit_reached("open_streams", maximum)
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1


def limit_reached(limit: str, maximum: int, pause_s: int = PAUSE_S) -> RateLimited:
    return RateLimited(
        f"{maximum} {_IN_USE[limit]}, and that is the limit; try again in {pause_s} s",
        retry_after_s=pause_s,
        limit=limit,
        maximum=maximum,
        used=maximum,
    )
