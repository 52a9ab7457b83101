"""The specification through PgBouncer in transaction mode: no LISTEN, no prepared statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance, StoreConformance
from tests.backends.test_postgres import OnPostgres
from tests.services import PostgresServer, Services, fresh_database, pgbouncer_before


@pytest.fixture(scope="module")
def migrated_database(services: Services, postgres_default: PostgresServer) -> Iterator[str]:
    """A database behind a pooler with two server connections in the place of the usual one."""
    with fresh_database(postgres_default) as url:
        asyncio.run(PostgresQueue(url).migrate())
        with services.provide("pgbouncer", pgbouncer_before(url)) as pooler:
            yield pooler.url


@pytest.fixture(scope="module")
def bystander(migrated_database: str) -> Iterator[psycopg.Connection[Any]]:
    """Also behind the pooler, where a statement must not be prepared."""
    with psycopg.connect(migrated_database, autocommit=True, prepare_threshold=None) as connection:
        yield connection


class BehindPgBouncer(OnPostgres):
    @pytest.fixture
    async def queue(self, empty_database: str) -> AsyncIterator[PostgresQueue]:
        self.url = empty_database
        queue = PostgresQueue(empty_database, pool_max_size=4)
        await queue.open()
        yield queue
        await queue.close()

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        connecting = psycopg.AsyncConnection.connect(self.url, prepare_threshold=None)
        async with await connecting as connection:
            yield connection


class TestPgBouncerQueue(BehindPgBouncer, QueueConformance):
    """A queue."""


class TestPgBouncerStore(BehindPgBouncer, StoreConformance):
    """And a ledger."""
