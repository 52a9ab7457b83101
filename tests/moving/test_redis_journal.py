"""What only Redis has to get right: its edges, its lists of ends, its journal of raw keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store import transfer
from jobbus.ids import new_id
from jobbus.job import EventType, JobState
from jobbus.message import Delivery, Message
from jobbus.movable import MOVABLE, JobRecord
from jobbus.store import JobFilter
from jobbus.testing.histories import check_history
from jobbus.testing.make import after, back, dead, done, message, messages
from tests.backends import redis_bytes

WAITING: Final = JobFilter(states=MOVABLE)
NOW: Final = timedelta(0)
LEASE: Final = timedelta(seconds=60)


async def leave(queue: RedisQueue, *some: Message) -> Sequence[JobRecord]:
    """These leave, and nothing else does."""
    where = JobFilter(states=MOVABLE, ids=tuple(one.job_id for one in some))
    taken = await queue.take_out(where, to="elsewhere", limit=len(some))
    assert [record.job.id for record in taken.records] == sorted(one.job_id for one in some)
    return taken.records


async def receive(queue: RedisQueue, limit: int = 1) -> list[Delivery]:
    return list(await queue.receive("default", limit=limit, wait=NOW, lease=LEASE))


async def state(queue: RedisQueue, one: Message) -> JobState:
    job = await queue.get(one.job_id)
    assert job is not None
    check_history(await queue.history(one.job_id), job)
    return job.state


async def test_what_stayed_is_released_by_the_end_of_the_one_that_came_home(
    redis: RedisQueue,
) -> None:
    parent = message()
    child = message(depends_on=after(parent))
    await redis.enqueue([parent, child])
    records = await leave(redis, parent)
    await redis.recover()
    assert await state(redis, child) is JobState.BLOCKED
    assert not await redis.take_in(records, origin=None)
    [held] = await receive(redis)
    assert not await redis.complete([done(held)])
    assert [one.job_id for one in await receive(redis)] == [child.job_id]
    assert not await keys(redis, "e:*", "p:*", "gone*")


async def test_what_stayed_learns_that_the_other_has_ended_elsewhere(redis: RedisQueue) -> None:
    parent = message()
    child = message(depends_on=after(parent))
    await redis.enqueue([parent, child])
    [record] = await leave(redis, parent)
    elsewhere = message()
    await redis.enqueue([elsewhere])
    await redis.dead_letter([dead(one) for one in await receive(redis)])
    [ended] = await leave(redis, elsewhere)
    ended = _under(record, ended)
    assert not await redis.take_in([ended], origin="elsewhere")
    assert await state(redis, child) is JobState.FAILED


def _under(record: JobRecord, ended: JobRecord) -> JobRecord:
    """How ``ended`` went, as the fate of the job of ``record``."""
    return replace(ended, job=replace(ended.job, id=record.job.id))


async def test_what_stayed_can_follow_with_its_condition(redis: RedisQueue) -> None:
    parent = message()
    child = message(depends_on=after(parent))
    await redis.enqueue([parent, child])
    records = [*await leave(redis, parent), *await leave(redis, child)]
    assert [edge.depends_on for edge in records[1].edges] == [parent.job_id]
    assert not await redis.take_in(records, origin="elsewhere")
    assert [one.job_id for one in await receive(redis, 2)] == [parent.job_id]


async def test_nothing_is_left_of_jobs_that_left_and_were_forgotten(redis: RedisQueue) -> None:
    first = message(group="tenant", unique_key="one", tags=("a",), parent_id=new_id())
    rest = messages(3, group="tenant", delay=timedelta(minutes=1))
    dated = message(expires_at=datetime.now(UTC) + timedelta(hours=1))
    await redis.enqueue([first, *rest, dated])
    await redis.abandon([back(one, timedelta(minutes=1)) for one in await receive(redis, 1)])
    everything = [first, *rest, dated]
    await leave(redis, *everything)
    assert not {k for k in await keys(redis, "*") if not k.startswith(("gone", *KEPT))}
    assert not await redis.counts()
    assert len(await keys(redis, "gone:j:*")) == len(everything)
    await redis.forget_departures([one.job_id for one in everything])
    assert not await keys(redis, "gone*")


KEPT: Final = ("counts", "epoch", "seen", "workers")


async def keys(queue: RedisQueue, *patterns: str) -> set[str]:
    """The keys under the queue's prefix, without it."""
    found: set[str] = set()
    for pattern in patterns:
        some = await queue._link.command("KEYS", queue._key(pattern))
        found |= {key.decode().removeprefix(queue._key("")) for key in some}
    return found


async def test_a_second_job_of_an_id_waits_until_the_first_has_arrived(
    redis: RedisQueue,
) -> None:
    sent = message()
    await redis.enqueue([sent])
    await leave(redis, sent)
    await redis.enqueue([sent])  # by a client that had not heard that it was enqueued
    taken = await redis.take_out(WAITING, to="elsewhere", limit=10)
    assert not taken.records
    assert "on its way" in taken.staying[sent.job_id]
    await redis.note_arrival([sent.job_id])
    await leave(redis, sent)
    [line] = await redis.departures(limit=10)
    assert not line.arrived


async def test_more_jobs_than_one_script_takes_leave_and_come(redis: RedisQueue) -> None:
    number = transfer._LEAVING + transfer._COMING + 7
    batch = messages(number)
    await redis.enqueue(batch)
    taken = await redis.take_out(WAITING, to="elsewhere", limit=number)
    assert [record.job.id for record in taken.records] == [one.job_id for one in batch]
    lines = await redis.departures(limit=number + 1)
    assert [line.record for line in lines] == list(taken.records)
    named = await redis.departures(limit=number, ids=[one.job_id for one in batch])
    assert named == lines
    assert not await redis.take_in(taken.records, origin="elsewhere")
    assert await redis.count(WAITING) == number
    assert not await redis.departures(limit=1)


async def test_a_redriven_job_moves_with_its_generation_and_without_its_deadline(
    redis: RedisQueue,
) -> None:
    sent = message(expires_at=datetime.now(UTC) + timedelta(milliseconds=300))
    await redis.enqueue([sent])
    await redis.dead_letter([dead(one) for one in await receive(redis)])
    assert await redis.redrive([sent.job_id]) == [sent.job_id]
    before = await redis.get(sent.job_id)
    assert not await redis.take_in(await leave(redis, sent), origin="elsewhere")
    assert await redis.get(sent.job_id) == before
    assert before is not None
    assert before.expires_at == sent.expires_at
    assert not await keys(redis, "deadlines")


async def test_the_retention_finds_what_ended_elsewhere(redis: RedisQueue) -> None:
    sent = message()
    await redis.enqueue([sent])
    await redis.complete([done(one, b"\x00") for one in await receive(redis)])
    where = JobFilter(states=frozenset({JobState.COMPLETED}))
    taken = await redis.take_out(where, to="elsewhere", limit=10)
    assert not await redis.take_in(taken.records, origin="elsewhere")
    assert await redis_bytes.told(redis) == await redis_bytes.weighed(redis) != {}
    assert await redis.prune(finished_before=datetime.now(UTC) + timedelta(hours=1)) == 1
    assert await redis_bytes.told(redis) == {}
    assert await redis.get(sent.job_id) is None


async def test_the_live_log_tells_of_arrivals(redis: RedisQueue) -> None:
    sent = message()
    await redis.enqueue([sent])
    records = await leave(redis, sent)
    await redis.watch(lasting=timedelta(minutes=1))
    _, position = await redis.events(after=0)
    assert not await redis.take_in(records, origin="elsewhere")
    [event], _ = await redis.events(after=position)
    assert (event.type, event.to_state, event.reason) == (
        EventType.MOVED,
        JobState.QUEUED,
        "from elsewhere",
    )


@pytest.mark.parametrize("origin", ["elsewhere", None])
async def test_a_retrying_job_of_a_group_waits_behind_it_or_goes_on(
    redis: RedisQueue, origin: str | None
) -> None:
    sent = message(group="tenant", max_attempts=9)
    await redis.enqueue([sent])
    await redis.abandon([back(one, timedelta(minutes=9)) for one in await receive(redis)])
    assert not await redis.take_in(await leave(redis, sent), origin=origin)
    assert await state(redis, sent) is JobState.RETRYING
    records = await leave(redis, sent)
    await redis.enqueue([message(group="tenant")])
    assert not await redis.take_in(records, origin=origin)
    assert await state(redis, sent) is JobState.BLOCKED
    await redis.complete([done(one) for one in await receive(redis)])
    assert await state(redis, sent) is JobState.SCHEDULED
    await redis.expedite([sent.job_id])
    assert [one.attempt for one in await receive(redis)] == [2]
