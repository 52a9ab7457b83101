"""The specification, on a real PostgreSQL server and its own clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance


class OnPostgres:
    """One database for all cases, emptied for each."""

    silence = timedelta(milliseconds=10)
    short_delay = timedelta(milliseconds=100)
    url: str

    @pytest.fixture
    async def queue(self, empty_database: str) -> AsyncIterator[PostgresQueue]:
        self.url = empty_database
        queue = PostgresQueue(empty_database)
        await queue.open()
        yield queue
        await queue.close()

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            yield connection


class TestPostgresQueue(OnPostgres, QueueConformance):
    """A queue."""


class TestPostgresStore(OnPostgres, StoreConformance):
    """And a ledger."""
