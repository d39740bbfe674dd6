"""Traced requests. One that makes a job is the root of all that is done for it.

Who decides what is traced
--------------------------
The operator, by `DF_TRACE_RATIO`: of each hundred requests at most so many, drawn by chance. What a
caller sends (`traceparent`) can join our spans to its own trace, and can ask *not* to be traced; it
cannot ask for more than its share. So the draw does not look at the trace's id, which the caller
chooses: ratio samplers that do can be made to sample always. With the ratio at 1 the caller's flag
decides alone.

A request that only reads joins a trace, and never begins one: clients that poll would bury the
jobs. Streams, probes and `/metrics` are not traced at all: how long somebody watches is no latency,
and a probe's every few seconds say nothing that its answer does not. What the edge refuses (no key,
a foreign host, too large) never comes here, so a stranger makes no spans.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.db.create_job import Created
from shared.telemetry.spans import OpenSpan, Tracer, Value
from shared.telemetry.traceparent import Traceparent, incoming, parse

_READS = {"GET", "HEAD", "OPTIONS"}


def traceparent_of(request: Request) -> str | None:
    """What the worker goes on with, for the job's row."""
    found: str | None = getattr(request.state, "traceparent", None)
    return found


def trace_id_of(scope: Scope) -> str | None:
    """For log lines."""
    found = parse(scope.get("state", {}).get("traceparent"))
    return None if found is None else found.trace_id


def about_job(request: Request, created: Created) -> None:
    """Name the job that this request made, or made before, on its span."""
    request.state.span_attributes = {
        "dreamforge.job.id": str(created.id),
        "dreamforge.replayed": created.replayed,
    }


class Traced:
    """ASGI middleware, inside the edge and only where tracing is on."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tracer: Callable[[], Tracer | None],
        ratio: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`tracer` is asked per request: the application is built before its parts are opened."""
        self._app = app
        self._tracer = tracer
        self._ratio = ratio
        self._draw = draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _of_interest(scope["path"]):
            await self._app(scope, receive, send)
            return
        tracer = self._tracer()
        if tracer is None:
            await self._app(scope, receive, send)
            return
        parent = incoming(Headers(scope=scope).getlist("traceparent"))
        if not self._sampled(scope["method"], parent):
            if parent is not None:  # the caller can still find our log lines by it
                _keep(scope, replace(parent, sampled=False))
            await self._app(scope, receive, send)
            return
        await self._trace(tracer, parent, scope, receive, send)

    def _sampled(self, method: str, parent: Traceparent | None) -> bool:
        if parent is None:
            return method not in _READS and self._draw() < self._ratio
        return parent.sampled and self._draw() < self._ratio

    async def _trace(
        self, tracer: Tracer, parent: Traceparent | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        span, status, broke = tracer.begin(scope["method"], parent), 0, None
        _keep(scope, span.traceparent)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # the edge answers, outside of us
            broke = type(error).__name__
            raise
        finally:
            _end(span, scope, status, broke)


def _of_interest(path: str) -> bool:
    return path.startswith("/v1/") and not path.endswith("/stream")


def _keep(scope: Scope, traceparent: Traceparent) -> None:
    scope.setdefault("state", {})["traceparent"] = str(traceparent)


def _end(span: OpenSpan, scope: Scope, status: int, broke: str | None) -> None:
    """No status and nothing broke: the client went away, which is no error of ours."""
    state, route = scope["state"], getattr(scope.get("route"), "path_format", None)
    attributes: dict[str, Value] = {
        "http.request.method": scope["method"],
        "dreamforge.correlation_id": state["correlation_id"],
    }
    if route is not None:
        attributes["http.route"] = route
    if status:
        attributes["http.response.status_code"] = status
    if (job := scope.get("path_params", {}).get("job_id")) is not None:
        attributes["dreamforge.job.id"] = job
    attributes |= state.get("span_attributes", {})
    error = broke or (str(status) if status >= 500 else None)
    if error is not None:
        attributes["error.type"] = error
    span.end(f"{scope['method']} {route or 'unmatched'}", attributes, error)
