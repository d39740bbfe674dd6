"""Hands spans to OpenTelemetry, and the only file that imports it. Loaded when tracing is on.

`api.middleware.tracing` decides what is sampled before a span begins, so the sampler here takes
all. The SDK sends batches: a queue of 2048 spans and a thread that empties it. A span that finds
no room is dropped, so no request waits for a collector. Nothing here is global: other libraries of
the process may use OpenTelemetry in their own way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as AnySpan

from shared.settings import Settings
from shared.telemetry.spans import FLUSH_S, Count, Span, Value
from shared.telemetry.traceparent import Traceparent

# One batch, its retries included. A collector answers in milliseconds or is in trouble.
EXPORT_TIMEOUT_S = 3.0
QUEUE_SPANS, BATCH_SPANS, EVERY_MS = 2048, 512, 2000.0
# A collector that is away says so with every batch.
QUIET_S = 60.0


def tracer(settings: Settings, service: str, count: Count) -> OtelTracer:
    """Sends to `settings.otlp_endpoint`, which is set."""
    exporter = OTLPSpanExporter(
        endpoint=f"{settings.otlp_endpoint}/v1/traces",
        headers=dict(settings.otlp_headers_sent),
        timeout=EXPORT_TIMEOUT_S,
    )
    return OtelTracer(exporter, service, count)


class OtelTracer:
    """`shared.telemetry.spans.Tracer` over an exporter."""

    def __init__(self, exporter: SpanExporter, service: str, count: Count) -> None:
        self._processor = _CountingProcessor(_CountingExporter(exporter, count), count)
        # `create` adds what OTEL_RESOURCE_ATTRIBUTES says of the deployment.
        resource = Resource.create(
            {"service.name": service, "service.version": version("dreamforge")}
        )
        for outcome in ("made", "exported", "failed"):
            count(outcome, 0)  # shown as 0, so that a first failure is a rise
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("dreamforge", version("dreamforge"))

    def begin(self, name: str, parent: Traceparent | None) -> _OtelSpan:
        context = None if parent is None else set_span_in_context(_remote(parent))
        return _OtelSpan(self._tracer.start_span(name, context, kind=SpanKind.SERVER))

    def emit(self, span: Span, parent: Traceparent) -> None:
        self._emit(span, _remote(parent), SpanKind.CONSUMER)

    def _emit(self, span: Span, parent: AnySpan, kind: SpanKind) -> None:
        made = self._tracer.start_span(
            span.name,
            set_span_in_context(parent),
            kind=kind,
            attributes=dict(span.attributes),
            start_time=span.start_ns,
        )
        for at_ns, name in span.events:
            made.add_event(name, timestamp=at_ns)
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR, span.error))
        for child in span.children:
            self._emit(child, made, SpanKind.INTERNAL)
        made.end(span.end_ns)

    def close(self) -> None:
        # The SDK's own end waits 30 s for a collector that hangs. Its thread, and this one, end
        # with the process.
        ending = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(FLUSH_S)


class _OtelSpan:
    def __init__(self, span: AnySpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> Traceparent:
        context = self._span.get_span_context()
        return Traceparent(
            trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}", sampled=True
        )

    def end(self, name: str, attributes: Mapping[str, Value], error: str | None) -> None:
        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


def _remote(parent: Traceparent) -> AnySpan:
    return NonRecordingSpan(
        SpanContext(
            trace_id=int(parent.trace_id, 16),
            span_id=int(parent.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
    )


# Counting -----------------------------------------------------------------------------------------
# The SDK does not say how many spans found no room. Made, less exported and failed, is what waits,
# a queue at most, and what was dropped.


class _CountingProcessor(BatchSpanProcessor):
    def __init__(self, exporter: SpanExporter, count: Count) -> None:
        super().__init__(exporter, QUEUE_SPANS, EVERY_MS, BATCH_SPANS)
        self._count = count

    def on_end(self, span: ReadableSpan) -> None:
        self._count("made", 1)
        super().on_end(span)


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, count: Count) -> None:
        self._exporter = exporter
        self._count = count

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            taken = result is SpanExportResult.SUCCESS
            self._count("exported" if taken else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class OncePerMinute(logging.Filter):
    """Lets an error pass once a minute, and nothing below: the counters have the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if record.levelno < logging.ERROR or now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_S
        return True


logging.getLogger(OTLPSpanExporter.__module__).addFilter(OncePerMinute())
logging.getLogger("opentelemetry.sdk").setLevel(logging.ERROR)  # a full queue, span by span
