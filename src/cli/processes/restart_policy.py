"""When a part that died is started again: with a backoff, and not after five deaths in a minute."""

from collections import deque

from shared.retry import backoff_s

LIMIT = 5
WINDOW_S = 60.0
# 0.5 + 1 + 2 + 4 s: a part that dies at once reaches the limit well inside the window.
BASE_S = 0.5


class RestartPolicy:
    """The deaths of one part within the last minute. Pure: the caller gives the time."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=LIMIT)

    def record_death(self, now: float) -> float | None:
        """Count a death; seconds until the next start, or None when it was one too many."""
        self._at.append(now)
        recent = [at for at in self._at if now - at <= WINDOW_S]
        if len(recent) >= LIMIT:
            return None
        return backoff_s(len(recent), first_s=BASE_S, most_s=WINDOW_S)
