"""Real brokers for flow tests, with a ledger around them: every one with each, where asked for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.queue import BackgroundJobQueue
from tests.backends.rabbitmq_broker import delete_all, empty, new_prefix
from tests.emulators.servicebus import Emulator
from tests.services import RabbitMqServer, SqsServer, fresh_queues
from tests.services.sqs import CREDENTIALS, REGION
from tests.tracked.ledgers import EVERY_LEDGER

NewBroker = Callable[[], BackgroundJobQueue]
QUEUES: Final = (
    "default", "doomed", "elsewhere", "heavy", "later", "light", "mail", "media", "mine", "yours",
)  # fmt: skip
"""Every queue that a flow test names, for brokers on which somebody has to make them."""
PAIRS: Final = tuple(
    pytest.param(f"{broker}+{ledger}", marks=[pytest.mark.services, pytest.mark.timeout(120)])
    for broker in ("rabbitmq", "sqs", "service_bus")
    for ledger in ("sqlite", "postgres")
    if EVERY_LEDGER
)
"""Kinds of homes: a broker, and its ledger."""


@pytest.fixture(scope="session")
def flow_rabbitmq(rabbitmq_server: RabbitMqServer) -> Iterator[Callable[[], Iterator[NewBroker]]]:
    url, prefix = rabbitmq_server.url, new_prefix()
    new_broker = partial(RabbitMqQueue, url, queue_prefix=prefix)
    asyncio.run(new_broker().create())

    def lend() -> Iterator[NewBroker]:
        yield new_broker
        asyncio.run(empty(url, prefix, QUEUES))

    yield lend
    asyncio.run(delete_all(url, prefix, QUEUES))


@pytest.fixture(scope="session")
def flow_sqs(sqs_server: SqsServer) -> Iterator[Callable[[], Iterator[NewBroker]]]:
    with pytest.MonkeyPatch.context() as patch, fresh_queues(sqs_server, QUEUES) as urls:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        new_broker = partial(
            AwsSqsQueue,
            urls["default"],
            dead_letter_queue_url=urls["dlq"],
            region=REGION,
            _session=BotoSession(),
        )

        def lend() -> Iterator[NewBroker]:
            yield new_broker
            for url in urls.values():
                sqs_server.client.purge_queue(QueueUrl=url)

        yield lend


@pytest.fixture(scope="session")
def flow_service_bus() -> Iterator[Callable[[], Iterator[NewBroker]]]:
    with Emulator() as emulator:
        for name in QUEUES:
            emulator.create_queue(name, lock_duration=timedelta(seconds=60), max_delivery_count=100)
        new_broker = partial(AzureServiceBusQueue, emulator.connection_string, clock=emulator.now)

        def lend() -> Iterator[NewBroker]:
            yield new_broker
            for name in QUEUES:
                emulator.purge(name)
            gc.collect()  # while the warnings about the SDK's sockets are still ignored

        yield lend


@contextmanager
def empty_broker(kind: str, request: pytest.FixtureRequest) -> Iterator[NewBroker]:
    """One of that name with nothing in it, as often as it is asked for."""
    lend: Callable[[], Iterator[NewBroker]] = request.getfixturevalue(f"flow_{kind}")
    yield from lend()
