"""When a part that died is started again: backoff, and five deaths in a minute are the end."""

from __future__ import annotations

from collections import deque

LIMIT = 5
WINDOW_S = 60.0
# 0.5 + 1 + 2 + 4 s: a part that dies at once reaches the limit well inside the window.
BASE_S = 0.5


class RestartPolicy:
    """The deaths of one part within the last minute. Pure: the caller brings the time."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=LIMIT)

    def record_death(self, now: float) -> float | None:
        """Count a death; seconds until the next start, or None when it was one too many."""
        self._at.append(now)
        recent = [at for at in self._at if now - at <= WINDOW_S]
        return None if len(recent) >= LIMIT else BASE_S * 2 ** (len(recent) - 1)
