"""Fixtures that the backends' tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from jobbus.backends.postgres import PostgresQueue
from tests.services import PostgresServer, fresh_database


@pytest.fixture(scope="module")
def migrated_database(postgres_default: PostgresServer) -> Iterator[str]:
    """A database with the schema in it, for all tests of a module: they empty its tables."""
    with fresh_database(postgres_default) as url:
        asyncio.run(PostgresQueue(url).migrate())
        yield url
