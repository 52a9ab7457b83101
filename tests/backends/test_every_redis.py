"""The whole specification on every Redis. Takes minutes: set ``JOBBUS_TEST_EVERY_REDIS=1``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from typing import Any, Final

import redis

from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.errors import BackendUnavailable
from jobbus.testing import QueueConformance, StoreConformance
from jobbus.testing.make import done, message
from tests.backends.test_redis import OnCluster, OnEight, OnOwn
from tests.services.redis import RedisProcess, client, cluster_nodes

NOW: Final = timedelta(0)
LEASE: Final = timedelta(seconds=60)


class TestRedis7Store(OnOwn, StoreConformance):
    """A ledger on the machine's own."""


class TestRedis8Queue(OnEight, QueueConformance):
    """A queue on the newest."""


class TestRedisClusterQueue(OnCluster, QueueConformance):
    """A queue on three nodes."""


class TestRedisClusterStore(OnCluster, StoreConformance):
    """And a ledger on them."""


async def test_a_cluster_goes_on_when_a_replica_has_taken_over() -> None:
    with cluster_nodes(4) as nodes:
        options = RedisOptions(url=nodes[0].url, prefix="jobbus-test")
        queue = RedisQueue(options=options)
        await queue.open()
        sent = message()
        await queue.enqueue([sent])
        primary = await asyncio.to_thread(_replicate, nodes, options.base)
        await asyncio.to_thread(primary.crash)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(BackendUnavailable):
                    held = await queue.receive("default", limit=1, wait=NOW, lease=LEASE)
                    break
                await asyncio.sleep(0.1)
        assert [one.job_id for one in held] == [sent.job_id]
        assert not await queue.complete([done(one) for one in held])
        await queue.close()


def _replicate(nodes: list[RedisProcess], base: str) -> RedisProcess:
    """Make the last node follow the one that has the keys; return that one, once it does."""
    [primary] = [node for node in nodes if _has(node, f"{base}epoch")]
    with client(primary.url) as asking:
        name: Any = asking.execute_command("CLUSTER", "MYID")
    with client(nodes[-1].url) as asking:
        asking.execute_command("CLUSTER", "REPLICATE", name)
        while _info(asking)["master_link_status"] != "up":
            time.sleep(0.05)
    with client(primary.url) as asking:
        assert asking.wait(1, 10_000) == 1
    return primary


def _has(node: RedisProcess, key: str) -> bool:
    with client(node.url) as asking, contextlib.suppress(redis.exceptions.MovedError):
        return bool(asking.exists(key))
    return False


def _info(asking: redis.Redis) -> Any:
    return asking.info("replication")
