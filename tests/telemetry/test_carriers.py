"""The trace context reaches whoever runs the job, whatever carries it, at every attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sqlite import SqliteQueue
from jobbus.message import Abandonment, Completion, Delivery
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.broker import BareBroker, Weather
from jobbus.testing.make import message
from jobbus.tracked import TrackedQueue
from jobbus.tracked.relay import TICKET
from tests.backends.rabbitmq_broker import delete_all, new_prefix
from tests.emulators.servicebus import Emulator
from tests.services import fresh_queues, own_prefix
from tests.services.sqs import CREDENTIALS, REGION

TRACED: Final = {
    "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
    "tracestate": "vendor=value,other=" + "x" * 200,
}
PATIENCE: Final = timedelta(seconds=30)
LEASE: Final = timedelta(seconds=60)
Place = AbstractContextManager[BackgroundJobQueue]


@contextmanager
def _rabbitmq(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    url, prefix = request.getfixturevalue("rabbitmq_server").url, new_prefix()
    try:
        yield RabbitMqQueue(url, queue_prefix=prefix)
    finally:
        asyncio.run(delete_all(url, prefix))


@contextmanager
def _sqs(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    environment = request.getfixturevalue("monkeypatch")
    for name, value in CREDENTIALS.items():
        environment.setenv(name, value)
    with fresh_queues(request.getfixturevalue("sqs_server"), ["default"]) as urls:
        yield AwsSqsQueue(urls["default"], dead_letter_queue_url=urls["dlq"], region=REGION)


@contextmanager
def _service_bus(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    with Emulator() as emulator:
        emulator.create_queue("default", lock_duration=LEASE, max_delivery_count=100)
        yield AzureServiceBusQueue(emulator.connection_string, clock=emulator.now)


@contextmanager
def _redis(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    server = request.getfixturevalue("owned_redis")
    with own_prefix(server) as prefix:
        yield RedisQueue(options=RedisOptions(url=server.url, prefix=prefix))


@contextmanager
def _tracked(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    ledger = SqliteQueue(request.getfixturevalue("tmp_path") / "jobs.db", synchronous="NORMAL")
    yield TrackedQueue(BareBroker(MemoryQueue()), ledger)


CARRIERS: Final[Mapping[str, Callable[[pytest.FixtureRequest], Place]]] = {
    "rabbitmq": _rabbitmq,
    "sqs": _sqs,
    "service-bus": _service_bus,
    "redis": _redis,
    "tracked": _tracked,
}


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    """A queue on each of them in turn, not yet open, and with nothing in it."""
    with CARRIERS[request.param](request) as queue:
        yield queue


async def taken(queue: BackgroundJobQueue) -> Delivery:
    [delivery] = await queue.receive("default", limit=1, wait=PATIENCE, lease=LEASE)
    return delivery


# The SDK of Service Bus leaves sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_the_trace_context_reaches_the_first_attempt_and_the_next(
    carrier: BackgroundJobQueue,
) -> None:
    sent = message(headers=TRACED)
    await carrier.open()
    await carrier.enqueue([sent])
    first = await taken(carrier)
    await carrier.abandon([Abandonment(delivery=first)])
    second = await taken(carrier)
    await carrier.complete([Completion(delivery=second)])
    await carrier.close()
    assert [one.job_id for one in (first, second)] == [sent.job_id] * 2
    assert [one.attempt for one in (first, second)] == [1, 2]
    for one in (first, second):
        assert {name: one.message.headers.get(name) for name in TRACED} == TRACED


async def test_a_ticket_leaves_the_trace_context_in_the_ledger(tmp_path: Path) -> None:
    weather = Weather()
    ledger = SqliteQueue(tmp_path / "jobs.db", synchronous="NORMAL")
    queue = TrackedQueue(BareBroker(MemoryQueue(), weather), ledger)
    await queue.open()
    await queue.enqueue([message(headers=TRACED)])
    delivery = await taken(queue)
    await queue.close()
    [ticket] = weather.accepted
    assert dict(ticket.headers) == {TICKET: "1"}
    assert dict(delivery.message.headers) == TRACED
