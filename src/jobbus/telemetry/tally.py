"""Counts what happens, in plain numbers, for whoever asks later.

A job costs one look-up and two bisections here, a third of a microsecond; recording it in an
OpenTelemetry SDK costs some seventy times that (decision 44).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from jobbus.message import Delivery, Message

from . import names
from .names import BUCKETS, MAX_SERIES, OTHER, Instrument

SeriesKey = tuple[str, str, str]
"""Queue, job type, outcome."""
Labels = tuple[str, ...]
"""The values of an instrument's labels, in its order."""
_SLOTS: Final = len(BUCKETS) + 1


class Series:
    """Attempts of one kind: how long they ran, how long they had waited."""

    __slots__ = ("duration_sum", "durations", "wait_sum", "waits")

    def __init__(self) -> None:
        self.durations = [0] * _SLOTS
        self.duration_sum = 0.0
        self.waits = [0] * _SLOTS
        self.wait_sum = 0.0

    @property
    def count(self) -> int:
        return sum(self.durations)


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of a counter or gauge at one moment, by the values of its labels."""

    instrument: Instrument
    values: Mapping[Labels, float]


@dataclass(slots=True)
class Distribution:
    """One histogram's series: how many values fell up to each of the buckets, and their sum."""

    counts: list[int]
    total: float


Gauges = Callable[[], Iterable[Reading]]


class Tally:
    """The counts of one process. Written on event loops, read on any thread.

    ``registered`` tells whether a job type has a handler here; others are counted together.
    """

    def __init__(self, registered: Callable[[str], bool]) -> None:
        self.gauges: list[Gauges] = []
        """Asked at every reading, on any thread: a worker's slots, the depth of queues, lags."""
        self._registered = registered
        self._expected: set[Labels] = set()
        self._series: dict[SeriesKey, Series] = {}
        self._enqueued: dict[Labels, float] = {}
        self._refused: dict[Labels, float] = {}
        self._returned: dict[Labels, float] = {}
        self._rescued: dict[Labels, float] = {}
        self._idempotency: dict[Labels, float] = {}

    def expect(self, jobs: Iterable[Labels]) -> None:
        """Count from 0 for these queues and job types, so that the first of each shows in rates."""
        self._expected.update(jobs)

    # on the way

    def attempted(self, delivery: Delivery, outcome: str, duration: float, wait: float) -> None:
        """An attempt has come to its end; seconds."""
        message = delivery.message
        key = (message.queue, message.job_type, outcome)
        series = self._series.get(key)
        if series is None:
            series = self._new_series(key)
        series.durations[bisect_left(BUCKETS, duration)] += 1
        series.duration_sum += duration
        series.waits[bisect_left(BUCKETS, wait)] += 1
        series.wait_sum += wait
        if delivery.crashes:
            _add(self._rescued, key[:2])

    def enqueued(self, messages: Iterable[Message]) -> None:
        """The backend has accepted these."""
        counts = self._enqueued
        for message in messages:
            key = (message.queue, message.job_type)
            if key in counts:
                counts[key] += 1
            else:
                _add(counts, key)

    def refused(self, delivery: Delivery) -> None:
        """An outcome came too late: the lease was another's."""
        _add(self._refused, (delivery.message.queue, delivery.message.job_type))

    def returned(self, delivery: Delivery) -> None:
        """It was handed back without having been started."""
        _add(self._returned, (delivery.message.queue, delivery.message.job_type))

    def idempotency(self, outcome: str) -> None:
        """The idempotency store answered: ``hit``, ``miss``, ``in_progress``, ``error``, ..."""
        self._idempotency[outcome,] = self._idempotency.get((outcome,), 0) + 1

    def _new_series(self, key: SeriesKey) -> Series:
        queue, job_type, outcome = key
        if len(self._series) >= MAX_SERIES:
            key = (OTHER, OTHER, outcome)
        elif not self._registered(job_type):
            key = (queue, OTHER, outcome)
        return self._series.setdefault(key, Series())

    # whoever asks; what is counted meanwhile may be half in it

    @property
    def attempts(self) -> int:
        """All attempts that came to an end here."""
        return sum(series.count for series in list(self._series.values()))

    def readings(self) -> Iterator[Reading]:
        """All counters, and all gauges that something feeds."""
        yield Reading(names.ENQUEUED, {**dict.fromkeys(self._expected, 0), **self._enqueued})
        attempts: dict[Instrument, dict[Labels, float]] = {
            instrument: dict.fromkeys(self._expected, 0) for instrument in names.OUTCOMES.values()
        }
        for (queue, job_type, outcome), series in list(self._series.items()):
            _sum(attempts[names.OUTCOMES[outcome]], {(queue, job_type): series.count})
        _sum(attempts[names.FENCED], dict(self._refused))
        _sum(attempts[names.RELEASED], dict(self._returned))
        yield from (Reading(instrument, values) for instrument, values in attempts.items())
        yield Reading(names.RESCUED, {**dict.fromkeys(self._expected, 0), **self._rescued})
        yield Reading(names.IDEMPOTENCY, dict(self._idempotency))
        for gauges in self.gauges:
            yield from gauges()

    def distributions(self) -> Iterator[tuple[Instrument, Mapping[Labels, Distribution]]]:
        """All histograms."""
        durations: dict[Labels, Distribution] = {}
        waits: dict[Labels, Distribution] = {}
        for key, series in list(self._series.items()):
            durations[key] = Distribution(list(series.durations), series.duration_sum)
            waited = waits.setdefault(key[:2], Distribution([0] * _SLOTS, 0.0))
            waited.counts = [a + b for a, b in zip(waited.counts, series.waits, strict=True)]
            waited.total += series.wait_sum
        yield names.DURATION, durations
        yield names.QUEUE_WAIT_TIME, waits


def _add(counts: dict[Labels, float], key: Labels) -> None:
    if key not in counts and len(counts) >= MAX_SERIES:
        key = (OTHER, OTHER)
    counts[key] = counts.get(key, 0) + 1


def _sum(into: dict[Labels, float], more: Mapping[Labels, float]) -> None:
    for key, number in more.items():
        into[key] = into.get(key, 0) + number
