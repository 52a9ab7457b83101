"""Every name by which jobbus is watched: instruments, labels, spans, attributes, log fields.

Instruments are named as OpenTelemetry wants it; Prometheus sees them with underscores, counters
with ``_total``. Units in braces are annotations, which exporters leave out of the name: with the
unit ``s`` it would be ``background_jobs_duration_seconds_bucket``, which nobody's rules expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

METER: Final = "jobbus"
TRACER: Final = "jobbus"
PREFIX: Final = "background_jobs"


class Kind(StrEnum):
    """What sort of instrument it is."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class Scope(StrEnum):
    """Who exports it."""

    PROCESS = "process"
    """Every process that does it: sum over them."""
    FLEET = "fleet"
    """One process for all: take the maximum, so that a handover is not counted twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    scope: Scope = Scope.PROCESS

    @property
    def family(self) -> str:
        """Its name in Prometheus, without the suffixes of counters and histograms."""
        return self.name.replace(".", "_")

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series in Prometheus."""
        match self.kind:
            case Kind.COUNTER:
                return (f"{self.family}_total",)
            case Kind.HISTOGRAM:
                return tuple(f"{self.family}_{end}" for end in ("bucket", "count", "sum"))
        return (self.family,)


BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
)  # fmt: skip
"""Upper bounds in seconds, from milliseconds to an hour: of both histograms."""

_JOB: Final = ("queue", "job_type")


def _counter(name: str, unit: str, description: str, *labels: str) -> Instrument:
    return Instrument(
        name=f"{PREFIX}.{name}", kind=Kind.COUNTER, unit=unit, description=description,
        labels=labels or _JOB,
    )  # fmt: skip


def _histogram(name: str, description: str, *labels: str) -> Instrument:
    return Instrument(
        name=f"{PREFIX}.{name}", kind=Kind.HISTOGRAM, unit="{second}", description=description,
        labels=labels,
    )  # fmt: skip


def _gauge(
    name: str, unit: str, description: str, *labels: str, scope: Scope = Scope.PROCESS
) -> Instrument:
    return Instrument(
        name=f"{PREFIX}.{name}", kind=Kind.GAUGE, unit=unit, description=description,
        labels=labels, scope=scope,
    )  # fmt: skip


def _fleet(name: str, unit: str, description: str, *labels: str) -> Instrument:
    return _gauge(name, unit, description, *labels, scope=Scope.FLEET)


ENQUEUED: Final = _counter("enqueued", "{job}", "Jobs that the backend accepted from this process")
COMPLETED: Final = _counter("completed", "{job}", "Jobs whose handler succeeded here")
FAILED: Final = _counter(
    "failed", "{job}", "Jobs that failed for good here, and went to the dead letters"
)
RETRIED: Final = _counter("retried", "{attempt}", "Attempts that failed here and will be repeated")
CANCELLED: Final = _counter("cancelled", "{job}", "Jobs that were cancelled while they ran here")
SNOOZED: Final = _counter(
    "snoozed", "{attempt}", "Attempts that were put off, by handlers or for want of one"
)
RELEASED: Final = _counter(
    "released", "{attempt}", "Attempts that were handed back, unstarted or at a shutdown"
)
CRASHED: Final = _counter("crashed", "{attempt}", "Attempts whose child process died")
RESCUED: Final = _counter(
    "rescued", "{attempt}", "Attempts at jobs under which another process had died"
)
FENCED: Final = _counter(
    "fenced", "{attempt}", "Attempts whose lease was lost: their outcome was refused, or dropped"
)
DURATION: Final = _histogram(
    "duration", "How long handlers ran, by what came of it", *_JOB, "outcome"
)
QUEUE_WAIT_TIME: Final = _histogram(
    "queue_wait_time", "How long jobs that were due waited for a handler to start", *_JOB
)
QUEUE_DEPTH: Final = _fleet("queue_depth", "{job}", "Jobs that could run now and wait", "queue")
OLDEST_AGE: Final = _fleet(
    "oldest_age", "{second}", "How long the oldest waiting job could have run", "queue"
)
IN_FLIGHT: Final = _fleet("in_flight", "{job}", "Jobs in workers' hands", "queue")
DELAYED: Final = _fleet("delayed", "{job}", "Jobs that are due later, retries included", "queue")
BLOCKED: Final = _fleet("blocked", "{job}", "Jobs that wait for other jobs", "queue")
DEAD_LETTERS: Final = _fleet("dead_letters", "{job}", "Jobs in the dead letters", "queue")
QUEUE_PAUSED: Final = _fleet("queue_paused", "1", "1 while a queue is paused, else 0", "queue")
WORKERS: Final = _fleet("workers", "{process}", "Worker processes that are alive")
WORKER_SLOTS: Final = _gauge(
    "worker_slots", "{slot}", "Slots of this worker, by state: busy, free", "state"
)
WORKER_BACKLOG: Final = _gauge(
    "worker_backlog", "{job}", "Jobs that this worker has fetched and not started"
)
LONGEST_RUNNING: Final = _gauge(
    "longest_running", "{second}", "Age of the longest-running handler of this worker"
)
STUCK_HANDLERS: Final = _gauge(
    "stuck_handlers", "{handler}", "Handlers that go on although they were told to stop"
)
BUILD_INFO: Final = _gauge(
    "build_info", "1", "Always 1; the labels say what runs", "version", "backend", "python"
)
IDEMPOTENCY: Final = _counter(
    "idempotency", "{key}", "Questions to the idempotency store, by answer", "outcome"
)
SCHEDULE_LAG: Final = _gauge(
    "schedule_lag", "{second}", "How late the last run of a schedule was enqueued", "schedule"
)
RELAY_LAG: Final = _fleet(
    "relay_lag",
    "{second}",
    "How long the oldest job that is not handed to the broker yet could have run",
    "queue",
)

INSTRUMENTS: Final = (
    ENQUEUED, COMPLETED, FAILED, RETRIED, DURATION, QUEUE_WAIT_TIME, QUEUE_DEPTH,
    OLDEST_AGE, IN_FLIGHT, DELAYED, BLOCKED, DEAD_LETTERS, QUEUE_PAUSED, WORKERS,
    CANCELLED, SNOOZED, RELEASED, CRASHED, RESCUED, FENCED, IDEMPOTENCY,
    WORKER_SLOTS, WORKER_BACKLOG, LONGEST_RUNNING, STUCK_HANDLERS, SCHEDULE_LAG, RELAY_LAG,
    BUILD_INFO,
)  # fmt: skip
"""All of them; the first seven are those of the system S2."""

OUTCOMES: Final[Mapping[str, Instrument]] = {
    "completed": COMPLETED,
    "dead": FAILED,
    "retried": RETRIED,
    "cancelled": CANCELLED,
    "snoozed": SNOOZED,
    "released": RELEASED,
    "crashed": CRASHED,
    "lost": FENCED,
}
"""What an attempt came to, and the counter that it is counted in."""

OTHER: Final = "other"
"""Stands for names beyond :data:`MAX_SERIES`, and for job types that are not registered here."""
MAX_SERIES: Final = 2000
"""Label sets of one kind in one process; OpenTelemetry's SDK has the same limit."""

PROCESS_LABEL: Final = "process"
"""Added where one endpoint speaks for several worker processes: their number."""

SPAN_SEND: Final = "send"
SPAN_PROCESS: Final = "process"
SPANS: Final[Mapping[str, str]] = {
    SPAN_SEND: "PRODUCER; one for each call that enqueues, named `send QUEUE`",
    SPAN_PROCESS: "CONSUMER; one for each attempt, named `process QUEUE`; child of the span that "
    "enqueued the job, and linked to it",
}
ATTRIBUTES: Final[Mapping[str, str]] = {
    "messaging.system": "`jobbus`",
    "messaging.operation.name": "`send` or `process`",
    "messaging.operation.type": "`send` or `process`",
    "messaging.destination.name": "the queue",
    "messaging.batch.message_count": "jobs in the call, where there are several",
    "messaging.message.id": "the job's id",
    "jobbus.job.id": "the job's id",
    "jobbus.job.type": "the job type",
    "jobbus.job.attempt": "the attempt, from 1",
    "error.type": "class of the exception that ended the attempt",
}
LOG_FIELDS: Final[Mapping[str, str]] = {
    "at": "RFC 3339, UTC",
    "level": "`debug`, `info`, `warning`, `error`, `critical`",
    "logger": "`jobbus.worker`, or the name of your own",
    "message": "at most 2,048 characters",
    "job_id": "the running job",
    "job_type": "its job type",
    "queue": "its queue",
    "attempt": "its attempt",
    "trace_id": "32 hexadecimal digits, where a trace is recorded",
    "span_id": "16 hexadecimal digits",
    "exception": "traceback, where there is one",
}
