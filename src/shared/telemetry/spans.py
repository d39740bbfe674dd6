"""Spans as plain data, and the door to whoever records them. Off unless `DF_OTLP_ENDPOINT` is set.

What happened is described here without a tracing library, mostly when it is over: a worker derives
a try's spans from its timeline and hands them over in one call. So no span is held open, nothing is
carried from task to task, and with tracing off nothing of it is loaded. `shared.telemetry.otel`,
which
`open_tracer` loads, is the only file that knows OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.telemetry.traceparent import Traceparent

# How long a process that ends tries to send what waits. Within what a worker takes to leave in any
# case: it goes on beside the good-bye to PostgreSQL (`test_stop_grace`).
FLUSH_S = 5.0

Value = str | int | float | bool
# What became of how many spans: `made`, then `exported` or `failed`. Called from any thread.
Count = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Something that took its time. Moments are nanoseconds since 1970; `error` says it failed."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    events: Sequence[tuple[int, str]] = ()
    children: Sequence[Span] = ()


class OpenSpan(Protocol):
    """A span that goes on: what happens below it needs its name before it has ended."""

    @property
    def traceparent(self) -> Traceparent:
        """What others put below this span."""

    def end(self, name: str, attributes: Mapping[str, Value], error: str | None) -> None:
        """It is over, and this is what it was."""


class Tracer(Protocol):
    """Records spans. Except for `close`, nothing here waits, and nothing raises for a collector
    that is away: what it does not take is dropped, and counted."""

    def begin(self, name: str, parent: Traceparent | None) -> OpenSpan:
        """A request that we answer, from now on."""

    def emit(self, span: Span, parent: Traceparent) -> None:
        """Work that was done for `parent`, possibly hours after it, in another process."""

    def close(self) -> None:
        """Send what waits, for `FLUSH_S` at most. Blocks its thread."""
