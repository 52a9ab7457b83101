"""A real RabbitMQ with a ledger around it: the specification that it cannot keep by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.services.relay import relay_once
from jobbus.testing import QueueConformance, StoreConformance
from jobbus.testing.conformance.delivery import ReceiveCases
from jobbus.testing.conformance.ordering import GroupCases
from jobbus.testing.make import message
from jobbus.tracked import TrackedQueue
from tests.backends.rabbitmq_broker import delete_all, new_prefix
from tests.services import RabbitMqServer
from tests.tracked.ledgers import (
    EVERY_LEDGER,
    QUEUES,
    BrokerCases,
    WithPostgresLedger,
    WithSqliteLedger,
    opened,
)

PATIENCE = timedelta(seconds=20)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def rabbitmq_prefix(rabbitmq_server: RabbitMqServer) -> Iterator[str]:
    """Of this module's own; there are more queues under it than under others."""
    prefix = new_prefix()
    yield prefix
    asyncio.run(delete_all(rabbitmq_server.url, prefix, QUEUES))


@pytest.fixture
async def queue(
    rabbitmq_queue: RabbitMqQueue, ledger: BackgroundJobQueue
) -> AsyncIterator[TrackedQueue]:
    """On connections of its own, which end with it; the fixture's other ones keep house."""
    async with opened(rabbitmq_queue.separate(), ledger) as queue:
        yield queue


class TestOnSqlite(WithSqliteLedger, BrokerCases, ReceiveCases, GroupCases):
    """What hangs on the broker, too."""

    async def test_a_ticket_whose_workers_died_still_starts_its_job_as_the_first_attempt(
        self, queue: TrackedQueue, rabbitmq_queue: RabbitMqQueue
    ) -> None:
        """The broker counts those deliveries (RM-3); they are no attempts of the job."""
        sent = message(max_crashes=2)
        await queue.enqueue([sent])
        await relay_once(queue, queue.relay(window=1))
        for _ in range(sent.max_crashes + 2):
            worker = rabbitmq_queue.separate()
            await worker.open()
            assert await worker.receive("default", limit=1, wait=PATIENCE, lease=MINUTE)
            await worker.close()
        [held] = await queue.receive("default", limit=1, wait=PATIENCE, lease=MINUTE)
        assert (held.job_id, held.attempt, held.crashes) == (sent.job_id, 1, 0)


class TestEveryQueueCase(WithSqliteLedger, QueueConformance):
    """All that a queue promises."""

    __test__ = EVERY_LEDGER


class TestEveryStoreCase(WithSqliteLedger, StoreConformance):
    """All that a ledger promises."""

    __test__ = EVERY_LEDGER


class TestEveryQueueCaseOnPostgres(WithPostgresLedger, QueueConformance):
    """All that a queue promises."""

    __test__ = EVERY_LEDGER


class TestEveryStoreCaseOnPostgres(WithPostgresLedger, StoreConformance):
    """All that a ledger promises."""

    __test__ = EVERY_LEDGER
