"""The specification, on real Redis servers and their own clocks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.testing import QueueConformance, StoreConformance
from jobbus.testing.conformance.control import RemovalCases
from jobbus.testing.conformance.delivery import EnqueueCases
from jobbus.testing.conformance.dependencies import DependencyCases
from jobbus.testing.conformance.moving import MoveCases
from jobbus.testing.conformance.ordering import GroupCases
from tests.services import RedisServer, own_prefix


class OnRedis:
    """A prefix of its own for every case."""

    silence = timedelta(milliseconds=10)
    short_delay = timedelta(milliseconds=100)

    @pytest.fixture
    async def queue(self, server: RedisServer) -> AsyncIterator[RedisQueue]:
        with own_prefix(server) as prefix:
            queue = RedisQueue(options=RedisOptions(url=server.url, prefix=prefix))
            await queue.open()
            yield queue
            await queue.close()


class OnOwn(OnRedis):
    @pytest.fixture
    def server(self, owned_redis: RedisServer) -> RedisServer:
        return owned_redis


class OnEight(OnRedis):
    @pytest.fixture
    def server(self, redis_8: RedisServer) -> RedisServer:
        return redis_8


class OnCluster(OnRedis):
    @pytest.fixture
    def server(self, redis_cluster: RedisServer) -> RedisServer:
        return redis_cluster


class TestRedisQueue(OnOwn, QueueConformance):
    """A queue, on the machine's own Redis."""


class TestRedisStore(OnEight, StoreConformance):
    """And a ledger, on the newest. The other way round is in ``test_every_redis.py``."""


class TestRedisCluster(
    OnCluster, EnqueueCases, GroupCases, DependencyCases, RemovalCases, MoveCases
):
    """Everything that touches many keys, where they could lie on many nodes."""

    @pytest.fixture
    def store(self, queue: RedisQueue) -> RedisQueue:
        return queue
