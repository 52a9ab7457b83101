"""Queues that require sessions, with a ledger around them, which keeps the groups itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance
from jobbus.testing.conformance.ordering import GroupCases
from jobbus.tracked import TrackedQueue
from tests.backends.service_bus.conftest import KeptOpen
from tests.backends.service_bus.places import SessionNamespace
from tests.emulators.servicebus import Emulator
from tests.tracked.ledgers import EVERY_LEDGER, QUEUES, BrokerCases, WithSqliteLedger, opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(emulator: Emulator) -> AsyncIterator[tuple[SessionNamespace, KeptOpen]]:
    namespace = SessionNamespace(emulator, names=QUEUES)
    broker = namespace.connect()
    await broker.open()
    yield namespace, KeptOpen(broker)
    await broker.close()


@pytest_asyncio.fixture(loop_scope="module")
async def queue(
    broker: tuple[SessionNamespace, Any], ledger: BackgroundJobQueue
) -> AsyncIterator[TrackedQueue]:
    namespace, kept_open = broker
    namespace.reset()
    async with opened(kept_open, ledger) as queue:
        yield queue


class TestOnSqlite(WithSqliteLedger, BrokerCases, GroupCases):
    """What hangs on the broker, and what both of them know of."""


class TestEveryQueueCase(WithSqliteLedger, QueueConformance):
    """All that a queue promises."""

    __test__ = EVERY_LEDGER
