"""The specification, on a real PostgreSQL server and its own clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance
from tests.backends.postgres_tables import empty_tables


class OnPostgres:
    """One database for all cases, emptied for each."""

    url: str

    @pytest.fixture
    async def queue(self, migrated_database: str) -> AsyncIterator[PostgresQueue]:
        self.url = migrated_database
        empty_tables(migrated_database)
        queue = PostgresQueue(migrated_database)
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
