"""Azure Service Bus with a ledger around it: the specification that it cannot keep alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from jobbus.message import NO_DELAY
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance
from jobbus.tracked import TrackedQueue
from tests.backends.service_bus.conftest import KeptOpen, Namespace
from tests.backends.service_bus.places import LOCK
from tests.backends.service_bus.places import QUEUES as MADE
from tests.emulators.servicebus import Emulator
from tests.tracked.ledgers import (
    EVERY_LEDGER,
    QUEUES,
    BrokerCases,
    WithPostgresLedger,
    WithSqliteLedger,
    opened,
)


@pytest.fixture(scope="module", autouse=True)
def _more_queues(emulator: Emulator) -> None:
    for name in set(QUEUES) - set(MADE):
        emulator.create_queue(name, lock_duration=LOCK, max_delivery_count=100)


@pytest_asyncio.fixture(loop_scope="module")
async def queue(namespace: Namespace, ledger: BackgroundJobQueue) -> AsyncIterator[TrackedQueue]:
    for name in QUEUES:
        if namespace.emulator.purge(name):
            while await namespace.queue.receive(name, limit=50, wait=NO_DELAY, lease=LOCK):
                pass
    broker: Any = KeptOpen(namespace.queue)
    async with opened(broker, ledger) as queue:
        yield queue


class TestOnSqlite(WithSqliteLedger, BrokerCases):
    """What hangs on the broker, too."""


class TestEveryQueueCase(WithSqliteLedger, QueueConformance):
    """All that a queue promises."""

    __test__ = EVERY_LEDGER


class TestEveryStoreCase(WithSqliteLedger, StoreConformance):
    """All that a ledger promises."""

    __test__ = EVERY_LEDGER


class SlowlyOnPostgres(WithPostgresLedger):
    """A receive lasts a tenth of a second at least: what is not due yet must not become so."""

    short_delay = timedelta(seconds=1)


class TestEveryQueueCaseOnPostgres(SlowlyOnPostgres, QueueConformance):
    """All that a queue promises."""

    __test__ = EVERY_LEDGER


class TestEveryStoreCaseOnPostgres(SlowlyOnPostgres, StoreConformance):
    """All that a ledger promises."""

    __test__ = EVERY_LEDGER
