"""A store for each test, and a bus on it; for whichever package of tests imports them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobbus import JobBus
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.broker import BareBroker, Weather
from jobbus.tracked import TrackedQueue
from tests.backends.postgres_tables import empty_tables
from tests.flow.brokers import empty_broker
from tests.flow.support import Home
from tests.services import PostgresServer, fresh_database


@pytest.fixture(scope="session")
def flow_database(postgres_default: PostgresServer) -> Iterator[str]:
    """A database with the schema in it; tests empty its tables before they use it."""
    with fresh_database(postgres_default) as url:
        asyncio.run(PostgresQueue(url).migrate())
        yield url


@pytest.fixture(scope="session")
def beside_flow(flow_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to that database beside those of the buses."""
    with psycopg.connect(flow_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def home(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    """An empty store of that kind; ``BROKER+LEDGER`` is that broker with a ledger around it."""
    broker, _, ledger = kind.rpartition("+")
    store = _store(ledger, tmp_path, request)
    if not broker:
        yield store
        return
    with empty_broker(broker, request) as new_broker:
        yield Home(kind, lambda: TrackedQueue(new_broker(), store.new_queue()), None)


def _store(kind: str, folder: Path, request: pytest.FixtureRequest) -> Home:
    if kind == "memory":
        return Home(kind, MemoryQueue().separate, None)
    if kind == "sqlite":
        path = folder / "jobs.db"
        # The disk's part in durability is not the subject here, and costs most of the time.
        queue = partial(SqliteQueue, path, synchronous="NORMAL")
        return Home(kind, queue, f"sqlite:///{path}")
    if kind == "tracked":
        return Home(kind, _tracked_in(folder), None)
    empty_tables(request.getfixturevalue("beside_flow"))
    url = str(request.getfixturevalue("flow_database"))
    return Home(kind, partial(PostgresQueue, url), url)


def _tracked_in(folder: Path) -> Callable[[], BackgroundJobQueue]:
    """A broker that delivers everything twice, with a ledger."""
    weather = Weather(twice=True)

    def new_queue() -> TrackedQueue:
        broker = SqliteQueue(folder / "broker.db", synchronous="NORMAL")
        ledger = SqliteQueue(folder / "jobs.db", synchronous="NORMAL")
        return TrackedQueue(BareBroker(broker, weather), ledger)

    return new_queue


@pytest.fixture
async def bus(home: Home) -> AsyncIterator[JobBus]:
    async with home.bus() as bus:
        yield bus
