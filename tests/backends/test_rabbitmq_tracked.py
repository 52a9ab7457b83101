"""A real RabbitMQ with a ledger around it: the specification that it cannot keep by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance
from jobbus.tracked import TrackedQueue
from tests.tracked.ledgers import EVERY_LEDGER, WithPostgresLedger, WithSqliteLedger, opened


@pytest.fixture
async def queue(
    rabbitmq_queue: RabbitMqQueue, ledger: BackgroundJobQueue
) -> AsyncIterator[TrackedQueue]:
    """On connections of its own, which end with it; the fixture's other ones keep house."""
    async with opened(rabbitmq_queue.separate(), ledger) as queue:
        yield queue


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
