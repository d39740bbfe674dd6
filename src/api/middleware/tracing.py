"""Spans of requests. A request that makes a job is the root of all spans of that job.

Who decides what is traced
--------------------------
The operator decides, by `DF_TRACE_RATIO`: that share of requests, drawn at random. A caller's
`traceparent` can join our spans to its own trace, and can ask *not* to be traced. It cannot ask for
more than its share, so the draw ignores the trace's id, which the caller chooses: a sampler that
uses the id can be made to sample always. With the ratio at 1 the caller's flag decides alone.

A request that only reads joins a trace and never begins one: clients that poll would hide the
jobs. Streams, probes and `/metrics` are not traced: how long a client watches is no latency, and a
probe's span says nothing that its answer does not. Requests that the outer middleware refuses (no
key, a foreign host, too large) never come here, so a caller without a key makes no spans.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.db.create_job import Created
from shared.telemetry.spans import OpenSpan, Tracer, Value
from shared.telemetry.traceparent import Traceparent, incoming, parse

_READS = {"GET", "HEAD", "OPTIONS"}


def traceparent_of(request: Request) -> str | None:
    """The traceparent that the job's row keeps, for the worker's spans."""
    traceparent: str | None = getattr(request.state, "traceparent", None)
    return traceparent


def trace_id_of(scope: Scope) -> str | None:
    """The id of the request's trace, for log lines."""
    traceparent = parse(scope.get("state", {}).get("traceparent"))
    return None if traceparent is None else traceparent.trace_id


def set_job(request: Request, created: Created) -> None:
    """Name the job that this request made, or an earlier one with its key made, on the span."""
    request.state.span_attributes = {
        "dreamforge.job.id": str(created.id),
        "dreamforge.replayed": created.replayed,
    }


class TracingMiddleware:
    """ASGI middleware inside `RequestMiddleware`, installed only where tracing is on."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tracer: Callable[[], Tracer | None],
        ratio: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`tracer` is called per request: the application is built before its parts are opened."""
        self._app = app
        self._tracer = tracer
        self._ratio = ratio
        self._draw = draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tracer = self._tracer() if _is_traced(scope) else None
        if tracer is None:
            await self._app(scope, receive, send)
            return
        parent = incoming(Headers(scope=scope).getlist("traceparent"))
        if self._sampled(scope["method"], parent):
            await self._trace(tracer, parent, scope, receive, send)
            return
        if parent is not None:  # the caller can still find our log lines by it
            _remember(scope, replace(parent, sampled=False))
        await self._app(scope, receive, send)

    def _sampled(self, method: str, parent: Traceparent | None) -> bool:
        if parent is None:
            return method not in _READS and self._draw() < self._ratio
        return parent.sampled and self._draw() < self._ratio

    async def _trace(
        self, tracer: Tracer, parent: Traceparent | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        span, error_type = tracer.begin(scope["method"], parent), None
        _remember(scope, span.traceparent)
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # the request middleware, outside of us, answers
            error_type = type(error).__name__
            raise
        finally:
            _end(span, scope, error_type)


def _is_traced(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    path: str = scope["path"]
    return path.startswith("/v1/") and not path.endswith("/stream")


def _remember(scope: Scope, traceparent: Traceparent) -> None:
    scope.setdefault("state", {})["traceparent"] = str(traceparent)


def _end(span: OpenSpan, scope: Scope, error_type: str | None) -> None:
    """Neither status nor error: the client disconnected, which is no error of ours."""
    state, route = scope["state"], getattr(scope.get("route"), "path_format", None)
    status = state.get("status")  # the request middleware has seen it on its way out
    attributes: dict[str, Value] = {
        "http.request.method": scope["method"],
        "dreamforge.correlation_id": state["correlation_id"],
    }
    if route is not None:
        attributes["http.route"] = route
    if status is not None:
        attributes["http.response.status_code"] = status
    if (job := scope.get("path_params", {}).get("job_id")) is not None:
        attributes["dreamforge.job.id"] = job
    attributes |= state.get("span_attributes", {})
    error = error_type or (str(status) if status is not None and status >= 500 else None)
    if error is not None:
        attributes["error.type"] = error
    span.end(f"{scope['method']} {route or 'unmatched'}", attributes, error)
