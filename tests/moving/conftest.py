"""Places to move from and to: files, a store of each kind, and a broker that remembers nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sqlite import SqliteQueue
from jobbus.services.move_broker import BrokerEnd
from jobbus.services.move_ends import StoreEnd
from jobbus.testing.broker import BareBroker
from jobbus.tracked import TrackedQueue
from tests.moving.brokers import broker, server
from tests.services import RedisServer, own_prefix

__all__ = ["broker", "server"]


@asynccontextmanager
async def stores(old: Path, new: Path) -> AsyncIterator[tuple[StoreEnd, StoreEnd]]:
    """Two files, open."""
    async with AsyncExitStack() as stack:
        ends = []
        for name, path in (("old", old), ("new", new)):
            queue = SqliteQueue(path, synchronous="NORMAL")
            await queue.open()
            stack.push_async_callback(queue.close)
            ends.append(StoreEnd(queue, name))
        yield ends[0], ends[1]


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[StoreEnd, StoreEnd]]:
    async with stores(tmp_path / "old.db", tmp_path / "new.db") as ends:
        yield ends


@pytest.fixture
def old(both: tuple[StoreEnd, StoreEnd]) -> StoreEnd:
    return both[0]


@pytest.fixture
def new(both: tuple[StoreEnd, StoreEnd]) -> StoreEnd:
    return both[1]


@pytest.fixture
async def bare() -> AsyncIterator[BrokerEnd]:
    """A broker without a ledger."""
    broker = BareBroker(MemoryQueue())
    await broker.open()
    yield BrokerEnd(broker, "bare", wait=timedelta(milliseconds=50))
    await broker.close()


@pytest.fixture
async def tracked(tmp_path: Path) -> AsyncIterator[StoreEnd]:
    """A broker with a ledger."""
    queue = TrackedQueue(BareBroker(MemoryQueue()), SqliteQueue(tmp_path / "ledger.db"))
    await queue.open()
    yield StoreEnd(queue, "tracked")
    await queue.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "jobs.db", synchronous="NORMAL")
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresQueue]:
    queue = PostgresQueue(postgres_url)
    await queue.migrate()
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
async def redis(owned_redis: RedisServer) -> AsyncIterator[RedisQueue]:
    with own_prefix(owned_redis) as prefix:
        queue = RedisQueue(options=RedisOptions(url=owned_redis.url, prefix=prefix))
        await queue.open()
        yield queue
        await queue.close()
