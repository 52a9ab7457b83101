"""A store of each kind, empty and open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sqlite import SqliteQueue
from tests.services import RedisServer, own_prefix


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
