"""The ledgers with which a broker is held to the specification, for suites to stand on.

A suite's module brings the fixture ``queue``, made of an empty broker and of the fixture ``ledger``
that these classes bring.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.job import JobState
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import VirtualClock, VirtualTime
from jobbus.tracked import TrackedQueue

EVERY_LEDGER: Final = bool(os.environ.get("JOBBUS_TEST_EVERY_LEDGER"))
"""Whether the whole specification runs on every broker and ledger, which takes minutes."""

QUEUES: Final = ("default", "mail", "video", "children", "elsewhere", "nowhere", "post")
"""Every queue that the specification names, for brokers on which somebody has to make them."""


@asynccontextmanager
async def opened(broker: BackgroundJobQueue, ledger: BackgroundJobQueue) -> AsyncIterator[TrackedQueue]:
    """The two as one queue, open."""
    queue = TrackedQueue(broker, ledger)
    await queue.open()
    try:
        yield queue
    finally:
        await queue.close()


class WithSqliteLedger(VirtualTime):
    """A fresh file for every case. The ledger's clock decides; the broker's need not agree."""

    ready_state = JobState.CREATED
    silence = timedelta(milliseconds=30)
    path: Path

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> SqliteQueue:
        self.path = tmp_path / "jobs.db"
        self.clock = VirtualClock()
        return SqliteQueue(self.path, clock=self.clock, synchronous="NORMAL")

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


class WithPostgresLedger:
    """One database for all cases, emptied for each. The module imports ``empty_database``."""

    ready_state = JobState.CREATED
    silence = timedelta(milliseconds=30)
    short_delay = timedelta(milliseconds=100)
    url: str

    @pytest.fixture
    def ledger(self, empty_database: str) -> PostgresQueue:
        self.url = empty_database
        return PostgresQueue(empty_database)

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            yield connection
