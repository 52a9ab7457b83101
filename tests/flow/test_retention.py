"""Workers delete ended jobs that are too many or too large, and leave the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobbus import JobBus, JobFilter, JobState, RetryPolicy
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.job import DEAD, TERMINAL
from jobbus.services import retention
from jobbus.services.retention import Keep, prune_once
from tests.flow.support import Home, all_ended, at_work, eventually
from tests.services import RedisServer, own_prefix


async def left(bus: JobBus) -> dict[str, JobState]:
    """Every job that there is, and its state."""
    return {job.id: job.state for job in (await bus.find(JobFilter(), limit=200)).jobs}


async def only(bus: JobBus, *states: JobState) -> None:
    """Return once exactly so many jobs are left, in these states."""

    async def probe() -> bool:
        return Counter((await left(bus)).values()) == Counter(states)

    await eventually(probe, f"{len(states)} jobs are left")


async def only_these(bus: JobBus, job_ids: Sequence[str]) -> None:
    """Return once these jobs are left, completed, and no others."""
    wanted = dict.fromkeys(job_ids, JobState.COMPLETED)

    async def probe() -> bool:
        return await left(bus) == wanted

    await eventually(probe, "the newest jobs are left")


async def test_a_worker_keeps_the_last_ten_completed_and_the_last_three_dead_jobs(
    home: Home,
) -> None:
    await keeps_ten_and_three(home)


@pytest.mark.services
async def test_a_worker_on_redis_keeps_as_many(owned_redis: RedisServer) -> None:
    with own_prefix(owned_redis) as prefix:
        options = RedisOptions(url=owned_redis.url, prefix=prefix)
        await keeps_ten_and_three(Home("redis", lambda: RedisQueue(options=options), None))


async def keeps_ten_and_three(home: Home) -> None:
    """A worker with these limits leaves so many, and of what comes the newest."""
    async with home.bus(cleanup_interval_seconds=1, removeOnComplete=10, removeOnFail=3) as bus:

        @bus.job(retry=RetryPolicy(max_attempts=1))
        def work(*, fails: bool = False) -> None:
            if fails:
                raise ValueError("on purpose")

        async with at_work(bus):
            await bus.enqueue_many([work.message() for _ in range(25)])
            await bus.enqueue_many([work.message(fails=True) for _ in range(7)])
            await only(bus, *[JobState.COMPLETED] * 10, *[JobState.FAILED] * 3)
            newest = await bus.enqueue_many([work.message() for _ in range(10)])
            await eventually(lambda: all_completed(bus, newest), "the newest jobs are left")
            await only(bus, *[JobState.COMPLETED] * 10, *[JobState.FAILED] * 3)
            assert set(newest) < set(await left(bus))


async def all_completed(bus: JobBus, job_ids: Sequence[str]) -> bool:
    known = await left(bus)
    return all(known.get(job_id) is JobState.COMPLETED for job_id in job_ids)


async def test_a_worker_keeps_no_more_bytes_than_it_may(home: Home) -> None:
    async with home.bus(cleanup_interval_seconds=1, job_history_retention_bytes=5000) as bus:

        @bus.job
        def work(text: str) -> None:
            pass

        async with at_work(bus):
            await bus.enqueue_many([work.message("x" * 900) for _ in range(9)])
            await only(bus, *[JobState.COMPLETED] * 5)
            large = await work.enqueue("x" * 4500)
            await only_these(bus, [large])


async def test_without_a_limit_only_age_counts(bus: JobBus) -> None:
    @bus.job
    def work() -> None:
        pass

    ids = await bus.enqueue_many([work.message() for _ in range(5)])
    async with at_work(bus):
        await all_ended(bus, ids)
    store = bus.store
    week = [Keep(states=TERMINAL - DEAD, age=timedelta(days=7))]
    now = datetime.now(UTC)
    assert await prune_once(store, week, now=now + timedelta(days=6)) == 0
    assert await prune_once(store, week, now=now + timedelta(days=8)) == 5


@pytest.mark.parametrize("limit", [{"count": 1}, {"size": 1}, {"age": timedelta(0)}])
async def test_one_step_deletes_so_many_pages_and_leaves_the_rest_to_the_next(
    bus: JobBus, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    monkeypatch.setattr(retention, "PAGES", 3)

    @bus.job
    def work() -> None:
        pass

    ids = await bus.enqueue_many([work.message() for _ in range(11)])
    async with at_work(bus):
        await all_ended(bus, ids)
    keep = [Keep(**{"states": TERMINAL, "age": timedelta(days=1), **limit})]
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert await prune_once(bus.store, keep, now=soon) == 6
    assert len(await left(bus)) == 5
