"""The specification, on a ledger around a broker that shuffles and doubles its messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.testing import QueueConformance, StoreConformance, VirtualClock, VirtualTime
from jobbus.testing.broker import BareBroker, Weather
from jobbus.tracked import TrackedQueue
from tests.backends.conftest import bystander, empty_database, migrated_database
from tests.tracked.ledgers import WithPostgresLedger, WithSqliteLedger, opened

__all__ = ["bystander", "empty_database", "migrated_database"]


def bad_weather() -> Weather:
    return Weather(twice=True, shuffled=True)


class OnSqliteLedger(WithSqliteLedger):
    """A fresh file and a fresh broker for every case, on one clock."""

    silence = timedelta(milliseconds=10)

    @pytest.fixture
    async def queue(self, ledger: SqliteQueue) -> AsyncIterator[TrackedQueue]:
        broker = BareBroker(MemoryQueue(clock=self.clock), bad_weather())
        async with opened(broker, ledger) as queue:
            yield queue


class TestQueueOnSqliteLedger(OnSqliteLedger, QueueConformance):
    """A queue."""


class TestStoreOnSqliteLedger(OnSqliteLedger, StoreConformance):
    """And a ledger."""


class OnPostgresLedger(WithPostgresLedger):
    """A fresh broker for every case."""

    silence = timedelta(milliseconds=10)

    @pytest.fixture
    async def queue(self, ledger: PostgresQueue) -> AsyncIterator[TrackedQueue]:
        async with opened(BareBroker(MemoryQueue(), bad_weather()), ledger) as queue:
            yield queue


class TestQueueOnPostgresLedger(OnPostgresLedger, QueueConformance):
    """A queue."""


class TestStoreOnPostgresLedger(OnPostgresLedger, StoreConformance):
    """And a ledger."""


class TestBareBroker(VirtualTime, QueueConformance):
    """Without its ledger it is a lawful broker: what it does not declare, it refuses."""

    @pytest.fixture
    async def queue(self) -> AsyncIterator[BareBroker]:
        self.clock = VirtualClock()
        queue = BareBroker(MemoryQueue(clock=self.clock))
        await queue.open()
        yield queue
        await queue.close()
