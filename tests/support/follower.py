"""One SSE client that comes back with `Last-Event-ID` until the stream says that this was all."""

from __future__ import annotations

import threading
import time

import httpx
from httpx_sse import SSEError, connect_sse
from tests.support.worker_process import DEADLINE_S


class Follower:
    """Follows one job from its first event on, in a thread of its own.

    `seen` are the ids of the events, as they came; `reconnects` how often it was cut off.
    """

    def __init__(self, base: httpx.URL, job: str) -> None:
        self.job = job
        self.seen: list[int] = []
        self.reconnects = 0
        self._url = base.join(f"/v1/jobs/{job}/progress/stream")
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def finding(self, last: int) -> str | None:
        """What is wrong with what it saw of a job that has ended with event `last`."""
        self._thread.join(DEADLINE_S)
        if self._thread.is_alive():
            self._give_up.set()
            return f"stream: of job {self.job} somebody still waits after {self.seen}"
        if self.seen != list(range(1, last + 1)):
            return f"stream: of job {self.job} somebody saw {self.seen}, it has {last} events"
        return None

    def _follow(self) -> None:
        while not self._give_up.is_set():
            try:
                if self._connected():
                    return
            except (httpx.HTTPError, SSEError):
                time.sleep(0.1)  # cut off, or refused while a part is away
            self.reconnects += 1

    def _connected(self) -> bool:
        """Listen until cut off; True when the server says that there is nothing more."""
        last = {"Last-Event-ID": str(self.seen[-1])} if self.seen else {}
        with (
            httpx.Client(timeout=httpx.Timeout(5, read=20)) as client,
            connect_sse(client, "GET", str(self._url), headers=last) as source,
        ):
            if source.response.status_code == 204:
                return True
            for event in source.iter_sse():
                if event.data:  # else only advice, how soon to come back
                    self.seen.append(int(event.id))
        return False
