"""What a Redis server can do to a queue: keep nothing, fill up, forget, die, move, cut the line."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import redis

from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.connection import refuse_unfit
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.redis_store.records import completion_argument
from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    MissingDependency,
)
from jobbus.job import JobState
from jobbus.message import CountsAs, LeaseState
from jobbus.store import JobFilter
from jobbus.testing.make import after, back, dead, done, message, messages
from tests.backends import redis_bytes
from tests.services import RedisServer, Services, own_prefix, own_redis
from tests.services.cutting import Cutting
from tests.services.programs import free_port
from tests.services.redis import client, reading_redis
from tests.services.redis_fronts import sentinel_for, tls_redis

LEASE: Final = timedelta(seconds=60)
PATIENCE: Final = timedelta(seconds=10)
NOW: Final = timedelta(0)

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def pliable(owned_redis: RedisServer) -> Iterator[RedisServer]:
    """A server for this module alone, to configure, empty and kill. The other one tells: we may."""
    with own_redis({"appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def bystander(pliable: RedisServer) -> Iterator[redis.Redis]:
    assert pliable.process is not None
    pliable.process.start()
    with client(pliable.url) as asking:
        asking.flushall()
        yield asking


@asynccontextmanager
async def opened(url: str, **wanted: Any) -> AsyncIterator[RedisQueue]:
    queue = RedisQueue(options=RedisOptions(url=url, **wanted))
    try:
        await queue.open()
        yield queue
    finally:
        await queue.close()


@pytest.fixture
async def queue(pliable: RedisServer, bystander: redis.Redis) -> AsyncIterator[RedisQueue]:
    async with opened(pliable.url) as queue:
        yield queue


async def take(queue: RedisQueue, number: int = 1) -> list[Any]:
    return list(await queue.receive("default", limit=number, wait=PATIENCE, lease=LEASE))


# what is refused at the start


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("appendonly", "no", "appendonly yes"),
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy noeviction"),
    ],
)
async def test_a_server_that_may_lose_jobs_is_refused_with_the_remedy_unless_that_is_accepted(
    pliable: RedisServer, bystander: redis.Redis, name: str, value: str, remedy: str
) -> None:
    before: Any = bystander.config_get(name)
    bystander.config_set(name, value)
    try:
        with pytest.raises(ConfigurationError, match=remedy) as caught:
            async with opened(pliable.url):
                pass
        assert "ALLOW_VOLATILE" in str(caught.value)
        async with opened(pliable.url, allow_volatile=True) as queue:
            assert not queue.capabilities.durable
            await queue.enqueue([message()])
            assert await take(queue)
    finally:
        bystander.config_set(name, before[name])


async def test_a_server_shared_with_others_carries_jobs_under_a_prefix(
    redis_default: RedisServer,
) -> None:
    with own_prefix(redis_default) as prefix:
        wanted: dict[str, Any] = {"prefix": prefix, "allow_volatile": not redis_default.durable}
        async with opened(redis_default.url, **wanted) as queue:
            await queue.enqueue([message()])
            assert not await queue.complete([done(one) for one in await take(queue)])
        with client(redis_default.url) as asking:
            assert asking.exists(f"{{{prefix}}}:epoch")


@pytest.mark.parametrize("version", ["5.0.14", "6.0.16"])
def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needs 6\.2 or newer"):
        refuse_unfit({"redis_version": version, "aof_enabled": 1}, RedisOptions())


async def test_a_server_that_is_not_there_is_unavailable_and_no_password_is_told() -> None:
    url = f"redis://:hush@127.0.0.1:{free_port()}/0"
    with pytest.raises(BackendUnavailable) as caught:
        async with opened(url):
            pass
    assert "hush" not in str(caught.value)


@pytest.mark.usefixtures("pliable")
async def test_a_server_that_is_still_reading_its_file_is_unavailable_and_not_refused() -> None:
    """Meanwhile it says of itself that it writes none."""
    told = ""
    with reading_redis() as server:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while "still reading" not in told:
                with pytest.raises(BackendUnavailable) as caught:
                    await RedisQueue(server.url).open()
                told = str(caught.value)


async def test_a_missing_client_library_is_told_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingDependency, match=r'pip install "jobbus\[redis\]"'):
        async with opened("redis://localhost"):
            pass


# what it may do later


async def test_a_full_server_takes_nothing_new_and_lets_what_it_has_be_finished(
    queue: RedisQueue, bystander: redis.Redis
) -> None:
    """RD-2: nothing is half-written, and workers keep completing."""
    held_before, waiting = messages(2)
    await queue.enqueue([held_before])
    [held] = await take(queue)
    await queue.enqueue([waiting])
    bystander.config_set("maxmemory", "1kb")
    try:
        refused = messages(3, unique_key="k")
        with pytest.raises(BackendFull):
            await queue.enqueue([message(), *refused])
        assert sum((await queue.counts()).values()) == 2
        assert await queue.extend([held], LEASE) == [LeaseState.KEPT]
        [other] = await take(queue)
        assert not await queue.complete([done(held)])
        assert not await queue.abandon([back(other, counts_as=CountsAs.RELEASE)])
        [again] = await take(queue)
        assert not await queue.dead_letter([dead(again)])
    finally:
        bystander.config_set("maxmemory", "0")
    states = {id: (await queue.get(id)) for id in (held.job_id, other.job_id)}
    assert [job.state for job in states.values() if job] == [JobState.COMPLETED, JobState.FAILED]


async def test_from_full_memory_jobs_can_move_away_and_none_can_come(
    queue: RedisQueue, bystander: redis.Redis
) -> None:
    batch = messages(3)
    await queue.enqueue(batch)
    bystander.config_set("maxmemory", "1kb")
    try:
        where = JobFilter(states=frozenset({JobState.QUEUED}))
        taken = await queue.take_out(where, to="elsewhere", limit=10)
        assert len(taken.records) == 3
        await queue.note_arrival([m.job_id for m in batch])
        with pytest.raises(BackendFull):
            await queue.take_in(taken.records, origin=None)
        assert await queue.count(JobFilter()) == 0
        assert len(await queue.departures(limit=10)) == 3
        await queue.forget_departures([batch[0].job_id])
    finally:
        bystander.config_set("maxmemory", "0")
    assert not await queue.take_in(taken.records, origin=None)
    assert len(await take(queue, 3)) == 3


async def test_a_server_that_lost_its_data_is_told_of_once_and_then_used(
    queue: RedisQueue, bystander: redis.Redis
) -> None:
    """RD-10: an epoch that is gone is an alarm, not an empty queue."""
    await queue.enqueue([message()])
    bystander.flushall()
    with pytest.raises(BackendError, match="has lost its data") as caught:
        await queue.enqueue([message()])
    assert not isinstance(caught.value, BackendUnavailable)
    sent = message()
    await queue.enqueue([sent])
    [held] = await take(queue)
    assert held.job_id == sent.job_id
    assert held.attempt == 1


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    queue: RedisQueue, bystander: redis.Redis
) -> None:
    await queue.enqueue([message()])
    bystander.script_flush()
    await queue.enqueue([message()])
    assert len(await take(queue, 2)) == 2


async def test_what_was_accepted_survives_the_death_of_the_server(
    pliable: RedisServer, queue: RedisQueue, bystander: redis.Redis
) -> None:
    """With ``appendfsync always``; what got no answer may be there or not."""
    process = pliable.process
    assert process is not None
    accepted: list[str] = []
    enough = asyncio.Event()

    async def produce() -> None:
        with contextlib.suppress(BackendUnavailable):
            while True:
                accepted.extend(await queue.enqueue(messages(3)))
                if len(accepted) >= 300:
                    enough.set()

    producers = [asyncio.create_task(produce()) for _ in range(4)]
    await enough.wait()
    await asyncio.to_thread(process.crash)
    await asyncio.gather(*producers)
    await asyncio.to_thread(process.start)
    assert len(accepted) >= 300
    found = [job_id for job_id in accepted if await queue.get(job_id) is None]
    assert found == []


async def test_a_worker_hears_of_jobs_that_another_process_enqueued(
    pliable: RedisServer, queue: RedisQueue
) -> None:
    heard = asyncio.Event()
    queue._link.listen(heard.set)
    async with asyncio.timeout(10):
        await heard.wait()  # that it listens
        heard.clear()
        async with opened(pliable.url) as other:
            await other.enqueue([message()])
        await heard.wait()


async def test_a_queue_closes_at_once_wherever_its_listener_is(
    pliable: RedisServer, bystander: redis.Redis
) -> None:
    for pause in range(60):
        async with asyncio.timeout(10), opened(pliable.url) as queue:
            queue._link.listen(lambda: None)
            for _ in range(pause):
                await asyncio.sleep(0)


async def test_a_change_whose_answer_was_lost_is_not_sent_again_behind_the_callers_back(
    pliable: RedisServer, queue: RedisQueue
) -> None:
    """RD-4."""
    await queue.enqueue([message()])
    [held] = await take(queue)
    async with Cutting(pliable.url) as line, opened(line.url) as cut:
        line.swallow = True
        with pytest.raises(BackendUnavailable):
            await cut.complete([done(held)])
        assert line.swallowed == 1
        line.swallow = False
        # Only the caller knows that to repeat this is harmless.
        assert not await cut.complete([done(held)])
    assert [job.state for job in [await queue.get(held.job_id)] if job] == [JobState.COMPLETED]


async def test_a_cancelled_call_leaves_no_answer_for_the_next_one(pliable: RedisServer) -> None:
    with own_prefix(pliable) as prefix:
        async with opened(pliable.url, prefix=prefix, max_connections=2) as queue:
            sent = message()
            await queue.enqueue([sent])
            for pause in range(30):
                call = asyncio.create_task(queue.get_queue_depth("default"))
                for _ in range(pause):
                    await asyncio.sleep(0)
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await call
                job = await queue.get(sent.job_id)
                assert job is not None
                assert job.id == sent.job_id


# scripts that go in steps, so that nobody else waits for long


async def test_a_thousand_dependents_are_all_released(queue: RedisQueue) -> None:
    parent = message()
    await queue.enqueue([parent])
    for _ in range(2):
        await queue.enqueue(messages(500, depends_on=after(parent), queue="children"))
    [held] = await take(queue)
    assert (await queue.get_queue_depth("children")).blocked == 1000
    await queue.complete([done(held)])
    depth = await queue.get_queue_depth("children")
    assert (depth.ready, depth.blocked) == (1000, 0)


async def test_a_thousand_dependents_of_a_dead_letter_all_fail(queue: RedisQueue) -> None:
    parent = message()
    await queue.enqueue([parent])
    for _ in range(2):
        await queue.enqueue(messages(500, depends_on=after(parent), queue="children"))
    [held] = await take(queue)
    await queue.dead_letter([dead(held)])
    depth = await queue.get_queue_depth("children")
    assert (depth.dead, depth.blocked) == (1000, 0)


async def test_a_chain_behind_a_failed_job_fails_at_once(queue: RedisQueue) -> None:
    parent = message()
    await queue.enqueue([parent])
    [held] = await take(queue)
    await queue.dead_letter([dead(held)])
    child = message(depends_on=after(parent))
    grandchild = message(depends_on=after(child))
    await queue.enqueue([child, grandchild])
    assert (await queue.get_queue_depth("default")).dead == 3


async def test_dependents_that_a_dead_process_did_not_tell_are_released_by_anybody(
    queue: RedisQueue,
) -> None:
    parent = message()
    child = message(depends_on=after(parent), queue="children")
    await queue.enqueue([parent, child])
    [held] = await take(queue)
    await queue._link.run("complete", 0, completion_argument(held, None))
    assert (await queue.get_queue_depth("children")).blocked == 1
    await queue.recover()
    assert (await queue.get_queue_depth("children")).ready == 1


async def test_many_jobs_are_pruned_and_purged_in_steps_and_leave_no_trace(
    queue: RedisQueue, bystander: redis.Redis
) -> None:
    await queue.enqueue(messages(450, tags=("t",)))
    held = [one for _ in range(3) for one in await take(queue, 150)]
    await queue.complete([done(one) for one in held])
    await queue.enqueue(messages(450, group="g", parent_id=held[0].job_id))
    assert await queue.purge("default") == 450
    left = await queue.find(JobFilter(), limit=1000)
    behind = queue_time(bystander) + timedelta(seconds=1)
    assert await queue.prune(finished_before=behind, limit=10_000) == len(left.jobs)
    assert (await queue.find(JobFilter())).jobs == []
    keys: Any = bystander.keys("{jobbus}:*")
    kept = {key.decode().partition("}:")[2] for key in keys}
    assert kept == {"epoch", "counts", "bytes", "seen", "workers"}


async def test_the_bytes_of_ended_jobs_are_added_up_whatever_befell_them(
    queue: RedisQueue,
) -> None:
    failed_once, dead_twice, cancelled, discarded, parent, trimmed = messages(6, max_attempts=9)
    await queue.enqueue([failed_once])
    await queue.abandon([back(one) for one in await take(queue)])
    await queue.enqueue([message(queue="children", depends_on=after(failed_once))])
    await queue.complete([done(one, b"x" * 50) for one in await take(queue)])
    await queue.enqueue([dead_twice])
    await queue.dead_letter([dead(one) for one in await take(queue)])
    await queue.redrive([dead_twice.job_id])
    assert await redis_bytes.told(queue) == await redis_bytes.weighed(queue)
    await queue.dead_letter([dead(one, timed_out=True) for one in await take(queue)])
    await queue.enqueue([cancelled, message(depends_on=after(cancelled))])
    await queue.cancel([cancelled.job_id])
    for one in (discarded, parent, trimmed):
        await queue.enqueue([one])
        await queue.complete([done(held) for held in await take(queue)])
    await queue.discard([discarded.job_id])
    assert set(await redis_bytes.told(queue)) == {
        "cancelled:default", "completed:default", "failed:default", "timed_out:default",
    }  # fmt: skip
    assert await redis_bytes.told(queue) == await redis_bytes.weighed(queue)
    await queue.trim(keep_count=2)
    assert await redis_bytes.told(queue) == await redis_bytes.weighed(queue)
    await queue.trim(keep_count=0)
    assert await redis_bytes.told(queue) == {}


def queue_time(bystander: redis.Redis) -> datetime:
    answer: Any = bystander.time()
    return datetime.fromtimestamp(answer[0], UTC)


@pytest.mark.parametrize("spoiled", [b"", b"no JSON\npayload", b"[1]\npayload", b'{"type": 1'])
async def test_a_document_that_nobody_can_read_is_set_aside_and_holds_up_nobody(
    queue: RedisQueue, bystander: redis.Redis, spoiled: bytes
) -> None:
    bad, good = messages(2)
    await queue.enqueue([bad, good])
    bystander.set(f"{{jobbus}}:d:{bad.job_id}", spoiled)
    [held] = await take(queue, 2)
    assert held.job_id == good.job_id
    job = await queue.get(bad.job_id)
    assert job is not None
    assert (job.state, job.problem and job.problem.kind) == (JobState.FAILED, "unreadable")
    assert job.payload == spoiled


async def test_a_primary_is_found_through_its_sentinels(pliable: RedisServer) -> None:
    with sentinel_for(pliable) as url, own_prefix(pliable) as prefix:
        async with opened(url, prefix=prefix) as queue:
            await queue.enqueue([message()])
            assert await take(queue)
            keys = queue.idempotency_store(timedelta(days=7)).separate()
            await keys.open()
            assert await keys.look(["a key"]) == [None]
            await keys.close()


async def test_a_server_that_cannot_prove_who_it_is_is_not_talked_to(services: Services) -> None:
    with services.provide("redis-tls", tls_redis()) as server:
        async with opened(server.url) as queue:
            await queue.enqueue([message()])
        unnamed, unknown = server.url.replace("localhost", "127.0.0.1"), server.url.split("?")[0]
        for wrong in (unnamed, unknown):
            with pytest.raises(BackendUnavailable, match="certificate"):
                async with opened(wrong):
                    pass
