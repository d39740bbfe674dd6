"""A collector that is slow, away or full costs spans, and nobody's time. And off means off."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from tests.support.harness import settings_for_tests
from tests.support.spans import Recorder, below, only
from tests.support.worker_process import free_port

from shared.telemetry import otel
from shared.telemetry.otel import OncePerMinute, OtelTracer
from shared.telemetry.setup import open_tracer
from shared.telemetry.spans import FLUSH_S, Span
from shared.telemetry.traceparent import Traceparent

PARENT = Traceparent(trace_id="1" * 32, span_id="2" * 16, sampled=True)


class Collector(SpanExporter):
    """Takes spans once `let_go` is set, as far as `well` says."""

    def __init__(self, *, well: bool = True) -> None:
        self.let_go, self.well, self.took = threading.Event(), well, 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.let_go.wait(60)
        self.took += len(spans)
        return SpanExportResult.SUCCESS if self.well else SpanExportResult.FAILURE


class Counts(dict[str, int]):
    def __call__(self, outcome: str, spans: int) -> None:
        self[outcome] = self.get(outcome, 0) + spans


def span(name: str = "work", *children: Span, error: str | None = None) -> Span:
    return Span(name=name, start_ns=1_000, end_ns=2_000, children=children, error=error)


def test_a_span_arrives_as_it_was_described() -> None:
    recorder = Recorder("dreamforge-worker")
    inner = Span(name="inner", start_ns=1_100, end_ns=1_200, attributes={"n": 1})
    outer = Span(
        name="outer", start_ns=1_000, end_ns=2_000, error="it broke", events=[(1_500, "heard")],
        children=[inner],
    )  # fmt: skip
    recorder.tracer.emit(outer, PARENT)
    spans = recorder.spans()
    seen = only(spans, "outer")
    assert (seen.trace_id, seen.parent) == (PARENT.trace_id, PARENT.span_id)
    assert (seen.start_ns, seen.end_ns, seen.events) == (1_000, 2_000, ("heard",))
    assert (seen.failed, seen.message, seen.service) == (True, "it broke", "dreamforge-worker")
    (child,) = below(spans, seen)
    assert (child.name, child.failed, child.attributes) == ("inner", False, {"n": 1})
    assert recorder.counts == {"made": 2, "exported": 2, "failed": 0}


def test_a_collector_that_hangs_holds_nobody_up_and_what_finds_no_room_is_dropped() -> None:
    collector, counts = Collector(), Counts()
    tracer = OtelTracer(collector, "test", counts)
    total = otel.QUEUE_SPANS + 2 * otel.BATCH_SPANS + 100  # the queue, what is being sent, more
    began = time.monotonic()
    for _ in range(total):
        tracer.emit(span(), PARENT)
    took_s = time.monotonic() - began
    collector.let_go.set()
    tracer.close()
    assert took_s < 30  # a tenth of a second, really; the collector would have taken minutes
    assert counts["made"] == total
    assert counts["exported"] == collector.took < total


def test_the_end_of_a_process_waits_for_a_collector_that_hangs_no_longer_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel, "FLUSH_S", 0.1)
    collector = Collector()
    tracer = OtelTracer(collector, "test", Counts())
    tracer.emit(span(), PARENT)
    began = time.monotonic()
    tracer.close()
    assert 0.1 <= time.monotonic() - began < 10
    collector.let_go.set()


def test_what_a_collector_does_not_take_is_counted() -> None:
    collector, counts = Collector(well=False), Counts()
    collector.let_go.set()
    tracer = OtelTracer(collector, "test", counts)
    tracer.emit(span(), PARENT)
    tracer.close()
    assert counts == {"made": 1, "exported": 0, "failed": 1}


def test_one_batch_to_a_collector_that_is_away_ends_before_the_flush_does() -> None:
    assert otel.EXPORT_TIMEOUT_S < FLUSH_S
    counts = Counts()
    settings = settings_for_tests(otlp_endpoint=f"http://127.0.0.1:{free_port()}")
    tracer = open_tracer(settings, "test", counts)
    assert tracer is not None
    tracer.emit(span(), PARENT)
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < FLUSH_S + 5
    assert counts == {"made": 1, "exported": 0, "failed": 1}


def test_a_collector_that_is_away_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seldom, now = OncePerMinute(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    record = logging.makeLogRecord({"levelno": logging.ERROR})
    assert [seldom.filter(record), seldom.filter(record)] == [True, False]
    now[0] += otel.QUIET_S
    assert seldom.filter(record)
    assert not seldom.filter(logging.makeLogRecord({"levelno": logging.WARNING}))


# Off ----------------------------------------------------------------------------------------------


def fresh(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a line in an interpreter of its own, with the settings of the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    needed = {
        "DF_DATABASE_URL": "postgresql://nobody@localhost/none",
        "DF_REDIS_URL": "redis://localhost:1/0",
        "DF_S3_ENDPOINT": "http://localhost:1",
        "DF_S3_ACCESS_KEY": "none",
        "DF_S3_SECRET_KEY": "none",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean | needed | environ,
        capture_output=True,
        text=True,
        timeout=110,
        cwd="/",  # no `.env`
    )


# FastAPI imports the interfaces of OpenTelemetry, and redis what it finds of its metrics. What
# records and sends spans is in nobody's way.
OFF = """
import sys
from shared.settings import Settings
from api.app import create_app
import api.server, supervisor.worker
create_app(Settings())
ours = ("shared.telemetry.otel", "opentelemetry.sdk.trace", "opentelemetry.exporter",
"google.protobuf")
print([name for name in sys.modules if name.startswith(ours)])
"""

# As if the extra were not installed.
WITHOUT = """
import sys
class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nobody())
import runpy
"""


def test_with_tracing_off_neither_service_loads_what_records_and_sends_spans() -> None:
    done = fresh(OFF)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
    on = fresh(
        f"{OFF}\nimport shared.telemetry.otel\nassert 'opentelemetry.sdk.trace' in sys.modules"
    )
    assert on.returncode == 0, on.stderr  # they are called so


def test_fastapis_own_telemetry_stays_off_whatever_the_environment_says() -> None:
    code = (
        "from shared.settings import Settings; from api.app import create_app\n"
        "app = create_app(Settings())\n"
        "print(app._telemetry['auto_configure'], app._native_telemetry.enabled())"
    )
    done = fresh(code, FASTAPI_OTEL_AUTO_CONFIGURE="true")
    assert done.stdout.strip() == "False False", done.stderr


@pytest.mark.parametrize("service", ["api", "supervisor"])
def test_a_collector_without_the_package_stops_the_start_with_one_line(service: str) -> None:
    code = f"{WITHOUT}runpy.run_module('{service}', run_name='__main__')"
    done = fresh(code, DF_OTLP_ENDPOINT="http://localhost:4318")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "DF_OTLP_ENDPOINT" in line and "dreamforge[otel]" in line
