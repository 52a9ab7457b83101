"""Shows a tally to Prometheus, together with whatever else the process measures.

Needs ``jobbus[otel]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from jobbus.errors import MissingDependency

from .names import BUCKETS, PREFIX, Kind
from .tally import Distribution, Tally

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")


def exposition(tally: Tally) -> Callable[[], bytes]:
    """What ``/metrics`` answers. Raises MissingDependency without the client library.

    Besides jobbus's own: what the application measures through OpenTelemetry, unless it exports
    that itself, and what is in the default registry of ``prometheus_client``.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError as error:
        raise MissingDependency(
            'the endpoint for Prometheus needs its client library: pip install "jobbus[otel]"'
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Jobs(tally))
    registry.register(_Others())
    _collect_opentelemetry(registry)
    return lambda: generate_latest(registry)


def _collect_opentelemetry(registry: CollectorRegistry) -> None:
    """Show what handlers measure through OpenTelemetry, unless the application exports it."""
    from .sdk import adopt_metrics

    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
    except ImportError as error:
        raise MissingDependency(
            "metrics need OpenTelemetry's SDK and its exporter for Prometheus: "
            'pip install "jobbus[otel]"'
        ) from error
    adopt_metrics(lambda: [PrometheusMetricReader(disable_target_info=True, registry=registry)])


class _Jobs:
    """A collector over the tally: what OpenTelemetry's exporter would make of the instruments."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for reading in self._tally.readings():
            one = reading.instrument
            kind = CounterMetricFamily if one.kind is Kind.COUNTER else GaugeMetricFamily
            family = kind(one.family, one.description, labels=one.labels)
            for labels, value in reading.values.items():
                family.add_metric(labels, value)
            yield family
        for instrument, by_labels in self._tally.distributions():
            histogram = HistogramMetricFamily(
                instrument.family, instrument.description, labels=instrument.labels
            )
            for labels, distribution in by_labels.items():
                histogram.add_metric(labels, _cumulative(distribution), distribution.total)
            yield histogram


class _Others:
    """The default registry of ``prometheus_client``, where applications have put their own."""

    def collect(self) -> Iterator[Metric]:
        from prometheus_client import REGISTRY

        return (one for one in REGISTRY.collect() if not one.name.startswith(PREFIX))


def _cumulative(distribution: Distribution) -> list[tuple[str, float]]:
    return list(zip(_BOUNDS, accumulate(distribution.counts), strict=True))
