"""The specification, on SQLite files and virtual time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobbus.backends.sqlite import SqliteQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter
from jobbus.testing import QueueConformance, StoreConformance, VirtualClock, VirtualTime
from jobbus.testing.make import message


class OnSqlite(VirtualTime):
    """A fresh file for every case."""

    path: Path

    @pytest.fixture
    async def queue(self, tmp_path: Path) -> AsyncIterator[SqliteQueue]:
        self.path = tmp_path / "jobs.db"
        self.clock = VirtualClock()
        # The disk's part in durability is not the subject here, and costs most of the time.
        queue = SqliteQueue(self.path, clock=self.clock, synchronous="NORMAL")
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


class TestSqliteQueue(OnSqlite, QueueConformance):
    """A queue."""


class TestSqliteStore(OnSqlite, StoreConformance):
    """And a ledger."""


async def test_many_may_open_a_new_file_at_the_same_time(tmp_path: Path) -> None:
    """SQLite's switch to the write-ahead log is refused at once to all but one of them."""
    for number in range(20):
        queues = [SqliteQueue(tmp_path / f"{number}.db") for _ in range(8)]
        await asyncio.gather(*(queue.open() for queue in queues))
        await queues[0].enqueue([message()])
        assert [await queue.count(JobFilter()) for queue in queues] == [1] * len(queues)
        await asyncio.gather(*(queue.close() for queue in queues))
