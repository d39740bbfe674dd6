"""A job's events as they happen, to the end, whatever breaks on the way.

A restart of the API or a proxy may cut the stream. The client comes back with `Last-Event-ID` and
gets what it missed, neither less nor twice. `204` says that the job has ended and no event is left.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from httpx_sse import EventSource

from cli.client.http import Client
from cli.errors import Failure, Refusal, Unreachable
from shared.retry import backoff, within

Event = dict[str, Any]

# The API sends a comment every 15 s: three of them missing mean a dead connection.
SILENCE_S = 45.0
FIRST_PAUSE_S = 0.1
GIVE_UP_S = 60.0
_TICK_S = 0.2
# Refusals that the next attempt may not meet any more.
_PASSING = {"infra_unavailable", "rate_limited"}


def follow_events(client: Client, job_id: str, after: int = 0) -> Iterator[Event]:
    """Every event after number `after` until the job has ended. Raises Unreachable, Refusal.

    While the job waits, messages with `code` `queue` are among them; they have no `seq`.
    """
    pauses = _pauses()
    while True:
        failure: Failure = Unreachable(client.api_base, "the stream ended early")
        try:
            for event in _connection(client, job_id, after):
                if event is None:
                    return
                after, pauses = int(event.get("seq", after)), _pauses()
                yield event
        except (Unreachable, Refusal) as error:
            if isinstance(error, Refusal) and error.code not in _PASSING:
                raise
            failure = error
        pause_s = next(pauses, None)
        if pause_s is None:
            raise failure
        time.sleep(pause_s)


def _pauses() -> Iterator[float]:
    """The pauses between connections; an event begins them anew."""
    return within(GIVE_UP_S, backoff(first_s=FIRST_PAUSE_S, most_s=2.0))


def _connection(client: Client, job_id: str, after: int) -> Iterator[Event | None]:
    """The events of one connection; None at the job's end."""
    headers = {"Accept": "text/event-stream"}
    if after:
        headers["Last-Event-ID"] = str(after)
    timeout = httpx.Timeout(SILENCE_S, connect=3.0)
    path = f"/v1/jobs/{job_id}/progress/stream"
    request = client.http.build_request("GET", path, headers=headers, timeout=timeout)
    with client.send(request, stream=True) as answer:
        if answer.status_code == httpx.codes.NO_CONTENT:
            yield None
            return
        for message in EventSource(answer).iter_sse():
            # A preview is a picture and no event: no terminal shows it.
            if message.data and message.event != "preview":
                yield message.json()


def read_in_background(source: Iterator[Event], tick: Callable[[], None]) -> Iterator[Event]:
    """The same events, read by a thread, while the caller's thread runs `tick` every 0.2 s.

    The thread is a daemon: when the caller leaves, it may sit in a read that never returns.
    """
    box: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for event in source:
                box.put(event)
            box.put(None)
        except Exception as error:
            box.put(error)

    threading.Thread(target=read, name="events", daemon=True).start()
    while True:
        tick()
        try:
            item = box.get(timeout=_TICK_S)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
