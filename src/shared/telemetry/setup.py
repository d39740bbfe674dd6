"""Opens the tracer that the settings ask for. Nothing else loads OpenTelemetry."""

from importlib import import_module

from shared.settings import Settings
from shared.telemetry.spans import Count, Tracer


def open_tracer(settings: Settings, service: str, count: Count) -> Tracer | None:
    """A tracer that sends to the collector of the settings; None when there is none."""
    if settings.otlp_endpoint is None:
        return None
    tracer: Tracer = import_module("shared.telemetry.otel").tracer(settings, service, count)
    return tracer
