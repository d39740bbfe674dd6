"""Spans for tests: recorded in this process, or received from another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.telemetry.otel import OtelTracer


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One span. Ids are lower-case hex; `parent` is empty for a root."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    service: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    failed: bool
    message: str
    events: tuple[str, ...]


def below(spans: Iterable[Seen], parent: Seen) -> list[Seen]:
    """The children of a span, oldest first."""
    found = [span for span in spans if span.parent == parent.span_id]
    return sorted(found, key=lambda span: (span.start_ns, span.end_ns))


def only(spans: Iterable[Seen], name: str, **attributes: Any) -> Seen:
    """The one span of this name with these attributes, dots written as two underscores."""
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    (found,) = [
        span
        for span in spans
        if span.name == name and wanted.items() <= dict(span.attributes).items()
    ]
    return found


class Recorder:
    """A tracer that keeps its spans in this process."""

    def __init__(self, service: str = "test") -> None:
        self.counts: dict[str, int] = {}
        self._exporter = InMemorySpanExporter()
        self.tracer = OtelTracer(self._exporter, service, self._count)

    def _count(self, outcome: str, spans: int) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + spans

    def spans(self) -> list[Seen]:
        """All spans so far. Ends the tracer."""
        self.tracer.close()
        return [_seen(span) for span in self._finished()]

    def _finished(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()


def _seen(span: ReadableSpan) -> Seen:
    assert span.context is not None and span.start_time is not None and span.end_time is not None
    return Seen(
        name=span.name,
        trace_id=f"{span.context.trace_id:032x}",
        span_id=f"{span.context.span_id:016x}",
        parent="" if span.parent is None else f"{span.parent.span_id:016x}",
        service=str(span.resource.attributes["service.name"]),
        kind=span.kind.name.lower(),
        start_ns=span.start_time,
        end_ns=span.end_time,
        attributes=dict(span.attributes or {}),
        failed=not span.status.is_ok and not span.status.is_unset,
        message=span.status.description or "",
        events=tuple(event.name for event in span.events),
    )
