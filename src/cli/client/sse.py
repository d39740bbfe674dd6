"""A job's events as they happen, to the end, whatever breaks on the way.

The stream may be cut by a restart of the API or a proxy. We come back with `Last-Event-ID` and get
what we missed, neither less nor twice. `204` is the API's word for "ended, nothing more to come".
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from httpx_sse import EventSource

from cli.client.http import Client, raise_for_envelope
from cli.errors import Refusal, Unreachable

Event = dict[str, Any]

# The API sends a comment every 15 s: three of them missing mean a dead connection.
_SILENCE_S = 45.0
_BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0)
_GIVE_UP_S = 60.0
_TICK_S = 0.2
# Refusals that the next try may not meet any more.
_PASSING = {"infra_unavailable", "rate_limited"}


def follow_events(client: Client, job_id: str, after: int = 0) -> Iterator[Event]:
    """Every event after number `after` until the job has ended. Raises Unreachable, Refusal."""
    tries = 0
    lost_at: float | None = None
    while True:
        try:
            for event in _connection(client, job_id, after):
                if event is None:
                    return
                after, tries, lost_at = int(event["seq"]), 0, None
                yield event
            why = "the stream ended early"
        except (httpx.TransportError, Unreachable, Refusal) as error:
            if isinstance(error, Refusal) and error.code not in _PASSING:
                raise
            why = str(error) or type(error).__name__
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at > _GIVE_UP_S:
            raise Unreachable(client.api_base, why)
        time.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
        tries += 1


def _connection(client: Client, job_id: str, after: int) -> Iterator[Event | None]:
    """The events of one connection; None at the job's end."""
    headers = {"Accept": "text/event-stream"}
    if after:
        headers["Last-Event-ID"] = str(after)
    timeout = httpx.Timeout(_SILENCE_S, connect=3.0)
    path = f"/v1/jobs/{job_id}/progress/stream"
    with client.http.stream("GET", path, headers=headers, timeout=timeout) as answer:
        if answer.status_code == httpx.codes.NO_CONTENT:
            yield None
            return
        raise_for_envelope(answer, client.api_base)
        for message in EventSource(answer).iter_sse():
            if message.data:
                yield json.loads(message.data)


def read_in_background(source: Iterator[Event], tick: Callable[[], None]) -> Iterator[Event]:
    """The same events, read by a thread, while this one calls `tick` several times a second.

    The thread is a daemon: it may sit in a read that nothing will ever answer when we leave.
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
