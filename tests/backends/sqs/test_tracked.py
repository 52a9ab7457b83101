"""Standard queues of SQS with a ledger around them: the specification they cannot keep alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance
from jobbus.testing.conformance.delivery import ReceiveCases
from jobbus.testing.conformance.ordering import GroupCases
from jobbus.tracked import TrackedQueue
from tests.services import SqsServer, fresh_queues
from tests.services.sqs import REGION
from tests.tracked.ledgers import (
    EVERY_LEDGER,
    QUEUES,
    BrokerCases,
    WithPostgresLedger,
    WithSqliteLedger,
    opened,
)


@pytest.fixture
async def queue(
    sqs_server: SqsServer, boto_session: BotoSession, ledger: BackgroundJobQueue
) -> AsyncIterator[TrackedQueue]:
    with fresh_queues(sqs_server, QUEUES) as urls:
        broker = AwsSqsQueue(
            urls["default"],
            dead_letter_queue_url=urls["dlq"],
            region=REGION,
            _session=boto_session,
        )
        async with opened(broker, ledger) as queue:
            yield queue


class TestOnSqlite(WithSqliteLedger, BrokerCases, ReceiveCases, GroupCases):
    """What hangs on the broker, too."""


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
