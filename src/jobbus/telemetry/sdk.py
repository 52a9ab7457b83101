"""Whether an application has configured an OpenTelemetry SDK, and counts for one that has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from . import names
from .names import BUCKETS, Instrument, Kind
from .tally import Tally

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from jobbus.message import Delivery

_IDLE: Final = frozenset({"NoOpMeterProvider", "_ProxyMeterProvider"})
"""What stands in for a provider; the second has no public name."""
_OWN: Final = "WorkersMeterProvider"


def traces_configured() -> bool:
    """Whether spans go anywhere. Does not load OpenTelemetry: who configures it, has."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    idle = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    return not isinstance(trace.get_tracer_provider(), idle)


def metrics_configured() -> bool:
    """Whether an application has said where measurements go; what a worker sets up is no such."""
    metrics: Any = sys.modules.get("opentelemetry.metrics")
    return metrics is not None and _kind_of(metrics.get_meter_provider()) not in {*_IDLE, _OWN}


def adopt_metrics(make: Callable[[], list[Any]]) -> None:
    """Where nobody has configured an SDK, configure one with the readers that ``make`` makes."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider

    if _kind_of(metrics.get_meter_provider()) in _IDLE:
        own = type(_OWN, (MeterProvider,), {})
        metrics.set_meter_provider(own(metric_readers=make()))


def _kind_of(provider: object) -> str:
    return type(provider).__name__


class SdkTally(Tally):
    """A tally that tells an application's own SDK of everything as well.

    Counters and gauges are observed when the SDK collects. There is no observable histogram, so
    the two histograms are recorded job by job, which costs what the SDK costs.
    """

    def __init__(self, registered: Callable[[str], bool]) -> None:
        from opentelemetry import metrics

        super().__init__(registered)
        meter = metrics.get_meter(names.METER)
        bounds = list(BUCKETS)
        self._duration, self._wait = (
            meter.create_histogram(
                one.name, one.unit, one.description, explicit_bucket_boundaries_advisory=bounds
            )
            for one in (names.DURATION, names.QUEUE_WAIT_TIME)
        )
        for instrument in names.INSTRUMENTS:
            self._observe(meter, instrument)

    def attempted(self, delivery: Delivery, outcome: str, duration: float, wait: float) -> None:
        super().attempted(delivery, outcome, duration, wait)
        message = delivery.message
        job_type = message.job_type if self._registered(message.job_type) else names.OTHER
        labels = {"queue": message.queue, "job_type": job_type}
        self._wait.record(wait, labels)
        self._duration.record(duration, {**labels, "outcome": outcome})

    def _observe(self, meter: Meter, instrument: Instrument) -> None:
        if instrument.kind is Kind.HISTOGRAM:
            return
        create = (
            meter.create_observable_counter
            if instrument.kind is Kind.COUNTER
            else meter.create_observable_gauge
        )
        callbacks = [self._observer(instrument)]
        create(instrument.name, callbacks, instrument.unit, instrument.description)

    def _observer(
        self, instrument: Instrument
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            from opentelemetry.metrics import Observation

            return [
                Observation(value, dict(zip(instrument.labels, labels, strict=True)))
                for reading in self.readings()
                if reading.instrument is instrument
                for labels, value in reading.values.items()
            ]

        return observe


def make_tally(registered: Callable[[str], bool]) -> Tally:
    """A tally that fits: for the SDK as well, where one is configured now."""
    return SdkTally(registered) if metrics_configured() else Tally(registered)
