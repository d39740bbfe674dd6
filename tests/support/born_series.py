"""Which series a registry shows, for tests of what is there before anything has happened."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase


def without_series(registry: CollectorRegistry, kind: type[MetricWrapperBase]) -> set[str]:
    """The names of this kind's metrics that show nothing at all."""
    return {
        metric.name
        for metric in registry.collect()
        if metric.type == kind._type and not metric.samples
    }


def combinations(registry: CollectorRegistry, name: str) -> set[tuple[str, ...]]:
    """The values of a series' labels, in the order of the labels' names."""
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels))
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }
