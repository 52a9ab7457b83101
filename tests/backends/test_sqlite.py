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
from jobbus.testing import QueueConformance, StoreConformance, VirtualClock, VirtualTime


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
