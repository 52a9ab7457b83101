"""The specification, on a ledger around a broker that shuffles and doubles its messages."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.job import JobState
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance, VirtualClock, VirtualTime
from jobbus.testing.broker import BareBroker, Weather
from jobbus.tracked import TrackedQueue
from tests.backends.conftest import bystander, empty_database, migrated_database

__all__ = ["bystander", "empty_database", "migrated_database"]


def bad_weather() -> Weather:
    return Weather(twice=True, shuffled=True)


class OnSqliteLedger(VirtualTime):
    """A fresh file and a fresh broker for every case."""

    ready_state = JobState.CREATED
    path: Path

    @pytest.fixture
    async def queue(self, tmp_path: Path) -> AsyncIterator[TrackedQueue]:
        self.path = tmp_path / "jobs.db"
        self.clock = VirtualClock()
        ledger = SqliteQueue(self.path, clock=self.clock, synchronous="NORMAL")
        broker = BareBroker(MemoryQueue(clock=self.clock), bad_weather())
        queue = TrackedQueue(broker, ledger)
        await queue.open()
        yield queue
        await queue.close()

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        connection = await asyncio.to_thread(
            sqlite3.connect, self.path, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


class TestQueueOnSqliteLedger(OnSqliteLedger, QueueConformance):
    """A queue."""


class TestStoreOnSqliteLedger(OnSqliteLedger, StoreConformance):
    """And a ledger."""


class OnPostgresLedger:
    """One database for all cases, emptied for each."""

    ready_state = JobState.CREATED
    silence = timedelta(milliseconds=10)
    short_delay = timedelta(milliseconds=100)
    url: str

    @pytest.fixture
    async def queue(self, empty_database: str) -> AsyncIterator[TrackedQueue]:
        self.url = empty_database
        queue = TrackedQueue(
            BareBroker(MemoryQueue(), bad_weather()), PostgresQueue(empty_database)
        )
        await queue.open()
        yield queue
        await queue.close()

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            yield connection


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
