"""Settings that stand in groups of their own: of a place where jobs are, and of the monitor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from jobbus.settings.kinds import (
    FilePath,
    FleetMetrics,
    Identifier,
    MonitorAddress,
    Number,
    Pooler,
    PostgresAddress,
    QueueAddress,
    QueuePrefix,
    Synchronous,
    Whole,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteSettings:
    """Where the jobs are when the provider is ``sqlite``."""

    path: FilePath = "jobbus.db"
    """Relative to the working directory of the process."""
    synchronous: Synchronous = "FULL"
    """FULL survives a power cut; NORMAL is faster and survives only the process."""
    allow_network_filesystem: bool = False
    busy_timeout_seconds: Annotated[Number, Field(ge=0, le=3600)] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """Where the jobs are when the provider is ``postgres``."""

    url: PostgresAddress | None = field(default=None, repr=False)
    """Always ``postgresql://``, whatever kind of address was given."""
    schema: Identifier | None = None
    """None is the first of the connection's search path."""
    pool_max_size: Annotated[Whole, Field(ge=1, le=1000)] = 10
    pooler: Pooler = "auto"
    """``transaction`` when a pooler hands the connection on after every transaction."""
    statement_timeout_seconds: Annotated[Number, Field(ge=0.1, le=3600)] = 10
    notify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """What is counted, and where a worker shows it."""

    enabled: bool = True
    """Count, and trace where a tracer provider is configured."""
    address: MonitorAddress | None = None
    """``9464``, ``HOST:PORT`` or ``unix:/PATH``; a port alone is one of 127.0.0.1. None is none."""
    fleet: FleetMetrics = "auto"
    """Who measures the queues: one worker of all, this one ``always``, or ``never``."""
    interval_seconds: Annotated[Number, Field(ge=0.1, le=3600)] = 5
    """Between two measurements of the queues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSqsSettings:
    """Where the jobs are when the provider is ``aws_sqs``. Credentials are never among settings."""

    queue_url: QueueAddress | None = None
    """The queue ``default``; the others are named after it."""
    dead_letter_queue_url: QueueAddress | None = None
    """None is the target of the queue's redrive policy."""
    region: str | None = None
    """None is the queue's, else what boto3 finds, else us-west-2."""
    endpoint_url: QueueAddress | None = None
    """None is AWS, or the server in ``queue_url`` where that is not AWS's."""
    wait_time_seconds: Annotated[Whole, Field(ge=0, le=20)] = 20
    max_number_of_messages: Annotated[Whole, Field(ge=1, le=10)] = 10
    """Of one request; a FIFO queue is always asked for one."""
    pollers: Annotated[Whole, Field(ge=1, le=32)] = 4
    """Requests at once, where there is work for them."""
    use_fifo_queue: bool = False
    queue_prefix: QueuePrefix | None = None
    """In front of the names of queues other than ``default``; None is that one's and a hyphen."""
