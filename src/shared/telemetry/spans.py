"""Spans as plain data, and the interface of what records them.

A worker builds the spans of an attempt from its timeline when the attempt is over, and emits them
in one call. So no span stays open, no task passes one to another, and nothing is loaded while
tracing is off. Only `shared.telemetry.otel` imports OpenTelemetry.
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
    """Work with a begin and an end. Moments are nanoseconds since 1970; `error` says it failed."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    events: Sequence[tuple[int, str]] = ()
    children: Sequence[Span] = ()


class OpenSpan(Protocol):
    """A span that has not ended. Spans below it need its id already."""

    @property
    def traceparent(self) -> Traceparent:
        """The parent for spans below this one."""

    def end(self, name: str, attributes: Mapping[str, Value], error: str | None) -> None:
        """End the span with its final name."""


class Tracer(Protocol):
    """Records spans. Except for `close`, nothing here waits, and nothing raises for a collector
    that is away: what it does not take is dropped, and counted."""

    def begin(self, name: str, parent: Traceparent | None) -> OpenSpan:
        """Begin the span of a request."""

    def emit(self, span: Span, parent: Traceparent) -> None:
        """Work that was done for `parent`, possibly hours after it, in another process."""

    def close(self) -> None:
        """Send what waits, for `FLUSH_S` at most. Blocks its thread."""
