"""An SSE client that reconnects with `Last-Event-ID` until the stream says that it is complete."""

from __future__ import annotations

import threading
import time

import httpx
from httpx_sse import SSEError, connect_sse
from tests.support.worker_process import DEADLINE_S


class Follower:
    """Follow one job from its first event, in a thread.

    `seen` has the ids of the events in their order, `reconnects` how often the connection broke.
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
        """What is wrong with the events that it saw, for a job whose last event is `last`."""
        self._thread.join(DEADLINE_S)
        if self._thread.is_alive():
            self._give_up.set()
            return f"stream: a client of job {self.job} still waits after {self.seen}"
        if self.seen != list(range(1, last + 1)):
            return f"stream: a client of job {self.job} saw {self.seen} of {last} events"
        return None

    def _follow(self) -> None:
        while not self._give_up.is_set():
            try:
                if self._read_stream():
                    return
            except (httpx.HTTPError, SSEError):
                time.sleep(0.1)  # the connection broke, or a part is away
            self.reconnects += 1

    def _read_stream(self) -> bool:
        """Read events until the connection breaks; True when the server says that it is done."""
        last = {"Last-Event-ID": str(self.seen[-1])} if self.seen else {}
        with (
            httpx.Client(timeout=httpx.Timeout(5, read=20)) as client,
            connect_sse(client, "GET", str(self._url), headers=last) as source,
        ):
            if source.response.status_code == 204:
                return True
            for event in source.iter_sse():
                # Without data it only says when to reconnect; `queue` is no event of the job.
                if event.data and event.event != "queue":
                    self.seen.append(int(event.id))
        return False
