"""Jobs of every kind go round through stores of every kind, and are what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Final

import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.ids import new_id
from jobbus.job import EventType, Job, JobState, Progress
from jobbus.message import Delivery, Message, OnFailure
from jobbus.movable import MOVABLE
from jobbus.store import JobFilter
from jobbus.testing.histories import check_history
from jobbus.testing.make import after, back, dead, done, message

Store = SqliteQueue | PostgresQueue | RedisQueue
ROUND: Final = ("sqlite", "redis", "postgres")
WAITING: Final = JobFilter(states=MOVABLE)
NOW: Final = timedelta(0)
LATER: Final = timedelta(minutes=10)
LEASE: Final = timedelta(seconds=60)
MOMENTS: Final = ("created_at", "run_at", "started_at", "finished_at", "expires_at")
ROUNDING: Final = timedelta(milliseconds=1)


async def receive(store: Store) -> Delivery:
    """The next delivery, which must come at once."""
    [held] = await store.receive("default", limit=1, wait=timedelta(seconds=5), lease=LEASE)
    return held


async def attempted(store: Store, one: Message) -> Delivery:
    """The message, enqueued and received, with a word of progress."""
    await store.enqueue([one])
    held = await receive(store)
    assert held.job_id == one.job_id
    await store.record_progress([(held, Progress(percent=40, stage="half", message="só 40\x00"))])
    return held


async def fill(store: Store) -> list[Message]:
    """Enqueue a job of every kind that moves, and some that have a past."""
    retrying = message(payload=b"retried", max_attempts=9)
    await store.abandon([back(await attempted(store, retrying), LATER)])
    buried = message(unique_key="buried", group="graves")
    await store.dead_letter([dead(await attempted(store, buried), timed_out=True)])
    waiting = message(
        payload=b"\x00\xff\xfe\n",
        headers={"tenant": "é\N{SNOWMAN}\N{PILE OF POO}"},
        metadata={"source": {"lines": [1, 2.5, None, True]}},
        tags=("a", "b"),
        priority=8,
        parent_id=new_id(),
        max_crashes=7,
        timeout=timedelta(minutes=3),
    )
    delayed = message(delay=LATER, expires_at=(await told(store, retrying)).run_at + LATER)
    unique = message(unique_key="only 'one'")
    child = message(depends_on=after(unique, delayed, on_failure=OnFailure.RUN))
    first, second = message(group="tenant"), message(group="tenant", delay=LATER)
    batch = [waiting, delayed, unique, child, first, second]
    await store.enqueue(batch)
    return [retrying, buried, *batch]


async def told(store: Store, one: Message) -> Job:
    job = await store.get(one.job_id)
    assert job is not None
    return job


async def hop(origin: Store, target: Store) -> None:
    """Everything goes, and the journal says so."""
    taken = await origin.take_out(WAITING, to="over there", limit=1000)
    assert not taken.staying
    assert not await target.take_in(taken.records, origin="over here")
    await origin.note_arrival([record.job.id for record in taken.records])
    lines = await origin.departures(limit=1000)
    assert sorted((line.record.job.id, line.to, line.arrived) for line in lines) == sorted(
        (record.job.id, "over there", True) for record in taken.records
    )
    assert await origin.count(JobFilter()) == 0


def rounded(job: Job, like: Job) -> Job:
    """``job`` with the times of ``like``, from which its own may differ by a rounding."""
    for name in MOMENTS:
        mine, other = getattr(job, name), getattr(like, name)
        assert (mine is None) == (other is None), name
        assert mine is None or abs(mine - other) < ROUNDING, (name, mine, other)
    moments = {name: getattr(like, name) for name in MOMENTS}
    word = job.progress
    if word is not None and like.progress is not None:
        word = replace(word, at=like.progress.at)
    return replace(job, progress=word, **moments)


async def finish(store: Store, number: int) -> None:
    """Let everything run to its end."""
    for _ in range(number):
        jobs = (await store.find(JobFilter(), limit=100)).jobs
        await store.expedite([job.id for job in jobs])
        held = await receive(store)
        assert not await store.complete([done(held)])


@pytest.mark.parametrize("start", ROUND)
async def test_jobs_of_every_kind_come_home_from_a_round_as_they_were(
    start: str, sqlite: SqliteQueue, redis: RedisQueue, postgres: PostgresQueue
) -> None:
    stores: dict[str, Store] = {"sqlite": sqlite, "redis": redis, "postgres": postgres}
    place = ROUND.index(start)
    way = [stores[name] for name in (ROUND + ROUND)[place : place + len(ROUND) + 1]]
    home = way[0]
    sent = await fill(home)
    before = [await told(home, one) for one in sent]
    past = [[event.type for event in await home.history(one.job_id)] for one in sent]
    words = [await home.progress_history(one.job_id) for one in sent]
    for number, (origin, target) in enumerate(pairwise(way), start=1):
        await hop(origin, target)
        for one, job, events in zip(sent, before, past, strict=True):
            await check_past(target, one, events, number)
            assert rounded(await told(target, one), job) == job
    assert not await home.departures(limit=1)
    assert [texts(await home.progress_history(one.job_id)) for one in sent] == [
        texts(one) for one in words
    ]
    assert len(await home.redrive([sent[1].job_id])) == 1
    await finish(home, len(sent))
    for one in sent:
        job = await told(home, one)
        assert job.state is JobState.COMPLETED
        check_history(await home.history(one.job_id), job)


async def check_past(store: Store, one: Message, past: Sequence[EventType], hops: int) -> None:
    """The history is one that can have happened, begins as it did, and tells every hop."""
    events = await store.history(one.job_id)
    check_history(events, await told(store, one))
    assert [event.type for event in events][: len(past)] == past
    reasons = [event.reason for event in events if event.type is EventType.MOVED]
    assert reasons == ["from over here"] * hops


def texts(words: Sequence[Progress]) -> list[tuple[float, str, str]]:
    return [(word.percent, word.stage, word.message) for word in words]
