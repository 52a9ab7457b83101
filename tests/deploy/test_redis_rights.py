"""Redis as ``users.acl`` grants it: the backend does all of its work with a worker's rights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobbus import JobBus, Worker, load_settings
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import DEFAULT_PREFIX, RedisOptions
from jobbus.errors import BackendError
from jobbus.job import JobState
from jobbus.store import JobFilter
from jobbus.testing.conformance.control import RemovalCases
from jobbus.testing.conformance.delivery import EnqueueCases
from jobbus.testing.conformance.finding import FindCases
from jobbus.testing.conformance.moving import MoveCases
from jobbus.testing.conformance.settling import SettlingCases
from jobbus.testing.make import message
from tests.deploy.manifests import DEPLOY
from tests.services import RedisServer
from tests.services.redis import client


@pytest.fixture
def granted(owned_redis: RedisServer) -> Iterator[dict[str, str]]:
    """The addresses of the users in the file, on a server of the tests' own, with nothing in it."""
    process = owned_redis.process
    assert process is not None
    process.start()
    addresses = {}
    with client(owned_redis.url) as operator:
        for line in (DEPLOY / "redis/users.acl").read_text(encoding="utf-8").splitlines():
            _, name, *rules = line.split()
            if name == "default":
                continue  # who would take the rest back?
            operator.execute_command("ACL", "SETUSER", name, "reset", *rules)
            [password] = [rule[1:] for rule in rules if rule.startswith(">")]
            addresses[name] = owned_redis.url.replace("//", f"//{name}:{password}@")
        operator.flushall()
        yield addresses
        operator.flushall()
        operator.execute_command("ACL", "DELUSER", *addresses)


class TestQueueWithTheRightsOfAWorker(
    EnqueueCases,
    SettlingCases,
    RemovalCases,
    FindCases,
    MoveCases,
):
    """What runs most of the backend's scripts; the rest is below."""

    silence = timedelta(milliseconds=10)
    short_delay = timedelta(milliseconds=100)

    @pytest.fixture
    def store(self, queue: RedisQueue) -> RedisQueue:
        return queue

    @pytest.fixture
    async def queue(self, granted: dict[str, str]) -> AsyncIterator[RedisQueue]:
        options = RedisOptions(url=granted["jobbus-worker"], prefix=DEFAULT_PREFIX)
        queue = RedisQueue(options=options)
        await queue.open()
        yield queue
        await queue.close()


async def test_a_worker_does_all_of_its_work(granted: dict[str, str]) -> None:
    settings = {"backend": granted["jobbus-worker"], "idempotency_store": "redis"}
    bus = JobBus(load_settings(settings, environ={}, directory=Path("/")))

    @bus.job
    async def fine(number: int) -> int:
        return number

    @bus.job(max_attempts=1)
    async def bad(number: int) -> None:
        raise ValueError("bad")

    async with bus:
        first = await bus.enqueue("fine", {"number": 1}, idempotency_key="order-1")
        last = await bus.enqueue(
            "fine", {"number": 2}, depends_on=[first], group="g", unique_key="k"
        )
        dead = await bus.enqueue("bad", {"number": 3})
        later = await bus.enqueue("fine", {"number": 4}, delay=3600)
        assert await bus.cancel(later)
        await bus.store.watch(lasting=timedelta(minutes=1))
        await bus.pause("default")
        await bus.resume("default")
        await Worker(bus, burst=True).run()
        assert await bus.get_status(last) is JobState.COMPLETED
        assert await bus.get_status(dead) is JobState.FAILED
        assert await bus.store.events(after=1)
        assert await bus.recover_stuck() == 0
        assert await bus.redrive(dead) == [dead]
        assert await bus.cancel(dead)
        assert await bus.discard(dead) == [dead]
        assert (await bus.depth()).ready == 0


async def test_who_may_not_rename_leaves_every_job_where_it_is(
    granted: dict[str, str], owned_redis: RedisServer
) -> None:
    """As with the rights of before jobs could move: a script is not undone."""
    with client(owned_redis.url) as operator:
        operator.execute_command("ACL", "SETUSER", "jobbus-worker", "-rename")
    queue = RedisQueue(options=RedisOptions(url=granted["jobbus-worker"], prefix=DEFAULT_PREFIX))
    await queue.open()
    sent = message()
    await queue.enqueue([sent])
    where = JobFilter(states=frozenset({JobState.QUEUED}))
    with pytest.raises(BackendError):
        await queue.take_out(where, to="elsewhere", limit=10)
    assert not await queue.departures(limit=10)
    [held] = await queue.receive("default", limit=1, wait=timedelta(0), lease=timedelta(minutes=1))
    assert held.job_id == sent.job_id
    await queue.close()


async def test_what_is_for_metrics_cannot_take_jobs(granted: dict[str, str]) -> None:
    """The test of these tests."""
    queue = RedisQueue(options=RedisOptions(url=granted["jobbus-metrics"], prefix=DEFAULT_PREFIX))
    with pytest.raises(BackendError, match=r"NOPERM|permission"):
        await queue.open()
