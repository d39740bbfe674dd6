"""The metrics of the api: base units, the prefix `dreamforge_`, a registry of its own.

Of several processes that share a port each counts into files (prometheus-client's mode for that),
and whichever is asked adds all of them up.
"""

import os
from collections.abc import Collection
from functools import partial
from itertools import product
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one process. `route` is a template, never a path: its values are bounded."""

    def __init__(self, *, shared: bool = False) -> None:
        """`shared`: this is one of several processes, and shows the counts of all."""
        self._shared = shared
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self._requests = counter(
            "dreamforge_http_requests_total",
            "Requests by route template, method and status; status 0: aborted by the client.",
            ["route", "method", "status"],
        )
        self._latency = Histogram(
            "dreamforge_http_request_duration_seconds",
            "Time until a response was complete, by route template.",
            ["route", "method"],
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.jobs_accepted = counter(
            "dreamforge_jobs_accepted_total",
            "Jobs created, by type; replays of an idempotency key are not counted.",
            ["type"],
        )
        self.jobs_finished = counter(
            "dreamforge_jobs_finished_total",
            "Jobs that ended by this process's word, by status and reason. Workers count theirs.",
            ["status", "reason"],
        )
        self.notifications = counter(
            "dreamforge_doorbell_rings_total",
            "Messages to the broker, by outcome: sent, failed, dropped.",
            ["outcome"],
        )
        self.sse_clients = gauge(
            "dreamforge_sse_clients", "Open progress streams.", multiprocess_mode="livesum"
        )
        self.waiting_calls = gauge(
            "dreamforge_waiting_calls",
            "Calls that wait for the end of their job.",
            multiprocess_mode="livesum",
        )
        self.sse_dropped = counter(
            "dreamforge_sse_dropped_total",
            "Streams ended because their client did not read fast enough.",
        )
        self.queue_depth = gauge(
            "dreamforge_queue_depth",
            "Steps that wait for a slot, up to 1000.",
            multiprocess_mode="mostrecent",
        )
        self.webhooks = counter(
            "dreamforge_webhook_attempts_total",
            "Webhooks sent, by outcome: delivered, failed (tried again), dead (given up).",
            ["outcome"],
        )
        self.webhook_backlog = gauge(
            "dreamforge_webhook_backlog",
            "Webhooks that wait to be sent, up to 1000.",
            multiprocess_mode="mostrecent",
        )
        self._spans = counter(
            "dreamforge_spans_total",
            "Spans: made, of these exported and failed; the rest waits or was dropped.",
            ["outcome"],
        )
        # Shown as 0: a counter that begins with its first failure has no rate, and no alert fires.
        self.jobs_finished.labels("cancelled", "cancelled")
        self.jobs_accepted.labels("generate")
        for outcome in ("delivered", "failed", "dead"):
            self.webhooks.labels(outcome)
        for outcome in ("sent", "failed", "dropped"):
            self.notifications.labels(outcome)

    def init_route(
        self, route: str, methods: Collection[str], documented: Collection[int | str]
    ) -> None:
        """Show the counters of a route as 0, for each status that it is documented to answer."""
        for method, status in product(methods, documented):
            self._requests.labels(route, method, str(status))

    def observe_request(
        self, route: str, method: str, status: int, duration_s: float | None
    ) -> None:
        """`duration_s` is None where the client watched or waited: that is no latency."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        if duration_s is not None:
            self._latency.labels(route, method).observe(duration_s)

    def count_spans(self, outcome: str, spans: int) -> None:
        """May be called from any thread."""
        self._spans.labels(outcome).inc(spans)

    def render(self) -> bytes:
        return generate_latest(_sum_of_all() if self._shared else self.registry)


def _sum_of_all() -> CollectorRegistry:
    """The counts of all processes. What a dead one had open is open no more."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
    return registry


_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
