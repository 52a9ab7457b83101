"""What can carry jobs, each with queues of a test's own: brokers by themselves, Redis, a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Final

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sqlite import SqliteQueue
from jobbus.message import Delivery
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.broker import BareBroker
from jobbus.tracked import TrackedQueue
from tests.backends.rabbitmq_broker import delete_all, new_prefix
from tests.emulators.servicebus import Emulator
from tests.services import fresh_queues, own_prefix
from tests.services.sqs import CREDENTIALS, REGION

PATIENCE: Final = timedelta(seconds=30)
LEASE: Final = timedelta(seconds=60)
Place = AbstractContextManager[BackgroundJobQueue]


async def taken(queue: BackgroundJobQueue) -> Delivery:
    """The delivery that must come."""
    [delivery] = await queue.receive("default", limit=1, wait=PATIENCE, lease=LEASE)
    return delivery


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


BARE: Final[Mapping[str, Callable[[pytest.FixtureRequest], Place]]] = {
    "rabbitmq": _rabbitmq,
    "sqs": _sqs,
    "service-bus": _service_bus,
}
CARRIERS: Final = {**BARE, "redis": _redis, "tracked": _tracked}
"""Each gives a queue that is not open yet, with nothing in it."""
