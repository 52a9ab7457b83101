"""Fixtures of the flow tests: each runs on memory, on a SQLite file and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from jobbus import JobBus
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from tests.backends.postgres_tables import empty_tables
from tests.flow.support import Home
from tests.services import PostgresServer, fresh_database

ON_POSTGRES = pytest.param("postgres", marks=pytest.mark.services)
ALL = ("memory", "sqlite", ON_POSTGRES)
SHARED = ("sqlite", ON_POSTGRES)
"""Those that several processes can use."""


@pytest.fixture(scope="session")
def flow_database(postgres_default: PostgresServer) -> Iterator[str]:
    """A database with the schema in it; tests empty its tables before they use it."""
    with fresh_database(postgres_default) as url:
        asyncio.run(PostgresQueue(url).migrate())
        yield url


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    """An empty store."""
    if kind == "memory":
        return Home(kind, MemoryQueue().separate, None)
    if kind == "sqlite":
        path = tmp_path / "jobs.db"
        # The disk's part in durability is not the subject here, and costs most of the time.
        queue = partial(SqliteQueue, path, synchronous="NORMAL")
        return Home(kind, queue, f"sqlite:///{path}")
    url = str(request.getfixturevalue("flow_database"))
    empty_tables(url)
    return Home(kind, partial(PostgresQueue, url), url)


@pytest.fixture
async def bus(home: Home) -> AsyncIterator[JobBus]:
    async with home.bus() as bus:
        yield bus
