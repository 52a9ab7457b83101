"""The state table, on every store there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.keys import RedisKeys
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sql.idempotency import SqlIdempotencyStore
from jobbus.backends.sqlite import SqliteQueue
from jobbus.idempotency import IdempotencyStore
from jobbus.idempotency.memory import MemoryIdempotencyStore
from jobbus.idempotency.redis import RedisIdempotencyStore
from jobbus.testing import IdempotencyConformance, VirtualClock
from tests.services import RedisServer, own_prefix

MOMENT = timedelta(milliseconds=5)


class TestMemory(IdempotencyConformance):
    """In this process."""

    @pytest.fixture
    def store(self) -> MemoryIdempotencyStore:
        self.seconds = 1000.0
        return MemoryIdempotencyStore(self.ttl, clock=lambda: self.seconds)

    def with_ttl(self, store: Any, ttl: timedelta) -> MemoryIdempotencyStore:
        return MemoryIdempotencyStore(ttl, clock=store._clock, _shared=store._shared)

    async def left(self, store: Any, key: str) -> timedelta:
        return timedelta(seconds=store._shared.keys[key].expires_at - self.seconds)

    async def wait_a_moment(self, store: Any) -> None:
        self.seconds += MOMENT.total_seconds()


class TestSqlite(IdempotencyConformance):
    """In a SQLite file, on virtual time."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqlIdempotencyStore]:
        self.clock = VirtualClock()
        self.queue = SqliteQueue(tmp_path / "jobs.db", clock=self.clock, synchronous="NORMAL")
        await self.queue.open()
        yield self.queue.idempotency_store(self.ttl)
        await self.queue.close()

    def with_ttl(self, store: Any, ttl: timedelta) -> SqlIdempotencyStore:
        return self.queue.idempotency_store(ttl)

    async def left(self, store: Any, key: str) -> timedelta:
        with self.queue.transaction_sync() as connection:
            row = connection.execute(
                "SELECT expires_at FROM background_job_idempotency WHERE key = ?", [key]
            ).fetchone()
        return timedelta(seconds=row[0] / 1000 - self.clock().timestamp())

    async def wait_a_moment(self, store: Any) -> None:
        self.clock.advance(MOMENT)


class TestPostgres(IdempotencyConformance):
    """In a Postgres database."""

    @pytest.fixture
    async def store(
        self, flow_database: str, beside_flow: psycopg.Connection[Any]
    ) -> AsyncIterator[SqlIdempotencyStore]:
        beside_flow.execute("DELETE FROM background_job_idempotency")
        self.beside = beside_flow
        self.queue = PostgresQueue(flow_database)
        await self.queue.open()
        yield self.queue.idempotency_store(self.ttl)
        await self.queue.close()

    def with_ttl(self, store: Any, ttl: timedelta) -> SqlIdempotencyStore:
        return self.queue.idempotency_store(ttl)

    async def left(self, store: Any, key: str) -> timedelta:
        row = self.beside.execute(
            "SELECT expires_at - clock_timestamp() FROM background_job_idempotency WHERE key = %s",
            [key],
        ).fetchone()
        assert row is not None
        left: timedelta = row[0]
        return left

    async def wait_a_moment(self, store: Any) -> None:
        await asyncio.sleep(MOMENT.total_seconds())


class TestRedis(IdempotencyConformance):
    """In Redis, under a prefix of its own."""

    @pytest.fixture
    async def store(
        self, redis_default: RedisServer, prefix: str
    ) -> AsyncIterator[RedisIdempotencyStore]:
        store = RedisIdempotencyStore(redis_default.url, self.ttl, prefix=prefix)
        await store.open()
        yield store
        await store.close()

    def with_ttl(self, store: Any, ttl: timedelta) -> RedisIdempotencyStore:
        other = RedisIdempotencyStore(store._url, ttl, prefix=store._prefix)
        other._client = store._client
        return other

    async def left(self, store: Any, key: str) -> timedelta:
        client: Redis = store._client
        return timedelta(milliseconds=await client.pttl(store._name(key)))

    async def wait_a_moment(self, store: Any) -> None:
        await asyncio.sleep(MOMENT.total_seconds())


class BesideJobs(IdempotencyConformance):
    """On the connection of a queue, in its slot. Cases bring the fixture ``server``."""

    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[IdempotencyStore]:
        with own_prefix(server) as prefix:
            queue = RedisQueue(options=RedisOptions(url=server.url, prefix=prefix))
            await queue.open()
            yield queue.idempotency_store(self.ttl)
            await queue.close()

    def with_ttl(self, store: Any, ttl: timedelta) -> RedisKeys:
        return RedisKeys(store._link, ttl)

    async def left(self, store: Any, key: str) -> timedelta:
        name = store._name(key)
        return timedelta(milliseconds=int(await store._link.command("PTTL", name)))

    async def wait_a_moment(self, store: Any) -> None:
        await asyncio.sleep(MOMENT.total_seconds())


class TestBesideJobsInRedis(BesideJobs):
    """On one server."""

    @pytest.fixture
    def server(self, owned_redis: RedisServer) -> RedisServer:
        return owned_redis


class TestBesideJobsInACluster(BesideJobs):
    """On three nodes, of which one has the jobs."""

    @pytest.fixture
    def server(self, redis_cluster: RedisServer) -> RedisServer:
        return redis_cluster
