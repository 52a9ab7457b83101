"""Jobs in Redis: workers die at each step, Redis itself is killed, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from jobbus.job import JobState
from tests.crash import test_poison as poison
from tests.crash.checker import EVERYBODY
from tests.crash.place import Place
from tests.crash.test_every_step import ONCE_MORE, STRAIGHT, Fate, die, effects, fates, survive
from tests.services import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

JOBS: Final = 200
WORKERS: Final = 2
STRAIGHT_PATH: Final = {
    "claim:before": STRAIGHT,
    "claim/claim:after": ONCE_MORE,
    "claim:after": ONCE_MORE,
    "handler:before_effect": ONCE_MORE,
    "handler:after_effect": ONCE_MORE,
    "complete:before": ONCE_MORE,
    "complete/complete:after": STRAIGHT,
    "complete:after": STRAIGHT,
}


async def test_a_worker_that_dies_on_the_straight_path_costs_at_most_one_more_run(
    redis_place: Place,
) -> None:
    place = redis_place
    async with place.bus() as bus:
        ids = await die(place, bus, "plain", list(STRAIGHT_PATH))
        jobs = await survive(place, bus, list(STRAIGHT_PATH))
    assert fates(place, jobs, ids) == STRAIGHT_PATH
    twice = {"handler:after_effect", "complete:before"}
    assert {label: effects(place, id) for label, id in ids.items()} == {
        label: 2 if label in twice else 1 for label in ids
    }


async def test_a_failure_is_told_once_wherever_the_worker_dies_while_it_tells_it(
    redis_place: Place,
) -> None:
    place = redis_place
    untold = Fate(state=JobState.FAILED, attempt=2, crashes=1, failures=1)
    told = Fate(state=JobState.FAILED, attempt=1, failures=1)
    expected = {
        "dead_letter:before": untold,
        "dead_letter/settle:after": told,
        "dead_letter:after": told,
    }
    async with place.bus() as bus:
        ids = await die(place, bus, "fails_for_good", list(expected))
        jobs = await survive(place, bus, list(expected))
    assert fates(place, jobs, ids) == expected


async def test_a_retry_is_told_once_wherever_the_worker_dies_while_it_tells_it(
    redis_place: Place,
) -> None:
    place = redis_place
    untold = Fate(attempt=3, crashes=1, failures=1)
    told = Fate(attempt=2, failures=1)
    expected = {"abandon:before": untold, "abandon/settle:after": told, "abandon:after": told}
    async with place.bus() as bus:
        ids = await die(place, bus, "fails_once", list(expected))
        jobs = await survive(place, bus, list(expected))
    assert fates(place, jobs, ids) == expected


async def test_a_dependent_runs_once_though_the_worker_died_between_its_parent_and_it(
    redis_place: Place,
) -> None:
    place = redis_place
    labels = ["complete/complete:after", "complete/resolve:after"]
    async with place.bus() as bus:
        ids = await die(place, bus, "late_parent", labels)
        jobs = await survive(place, bus, labels)
    assert len(jobs) == 2 * len(ids)
    assert {(job.state, job.attempt) for job in jobs.values()} == {(JobState.COMPLETED, 1)}


async def test_a_job_that_kills_its_worker_thrice_is_set_aside_and_its_neighbours_complete(
    redis_place: Place,
) -> None:
    await poison.test_a_job_that_kills_its_worker_thrice_is_set_aside_and_its_neighbours_complete(
        redis_place, killers=1
    )


async def test_jobs_and_workers_survive_the_death_of_redis(
    redis_place: Place, owned_redis: RedisServer
) -> None:
    """With ``appendfsync always``, whatever was answered is there when it is back."""
    place, process = redis_place, owned_redis.process
    assert process is not None
    async with place.bus() as bus:
        ids = await place.enqueue(bus, JOBS, seconds=0.02)
        workers = [
            place.start(f"worker-{n}", queues=["default", f"own-{n}"], lease=5.0)
            for n in range(WORKERS)
        ]
        for part in (JOBS // 4, JOBS // 2):
            await place.seen("effect", number=part)
            place.note("cut", process=EVERYBODY)
            await asyncio.to_thread(process.crash)
            await asyncio.to_thread(process.start)
        await place.until_done(bus)
        for number, worker in enumerate(workers):
            assert worker.alive
            ids.append(await bus.enqueue("plain", queue=f"own-{number}"))
        await place.until_done(bus)
        for worker in workers:
            worker.terminate()
            assert await worker.ended() == 0, worker.log
        jobs = await place.prove(bus)
    assert set(jobs) == set(ids)
    assert {job.state for job in jobs.values()} == {JobState.COMPLETED}
