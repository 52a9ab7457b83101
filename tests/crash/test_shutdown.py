"""Workers are told to go while there is work: they finish or hand back, and nobody is charged."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from jobbus.bus import JobBus
from jobbus.job import EventType, JobState
from tests.crash.place import Place, point

pytestmark = pytest.mark.crash

WORKERS: Final = 4
JOBS: Final = 500
PROMISE: Final = 30.0
"""Seconds within which a worker has gone that was told to."""
AT_ONCE: Final = 10.0
"""Much less than the drain time, in seconds."""


async def test_a_rolling_restart_under_load_loses_nothing_and_charges_nobody(place: Place) -> None:
    async with place.bus() as bus:
        await place.enqueue(bus, JOBS // 2, seconds=0.02)
        workers = [place.start(f"old-{number}") for number in range(WORKERS)]
        await place.seen("ready", number=WORKERS)
        fresh = []
        for number, old in enumerate(workers, start=1):
            await place.enqueue(bus, JOBS // 2 // WORKERS, seconds=0.02)
            await place.seen("effect", number=number * JOBS // 8)
            old.terminate()
            fresh.append(place.start(f"new-{number}"))
            assert await old.ended(PROMISE) == 0, old.log
        await place.until_done(bus)
        for worker in fresh:
            worker.terminate()
        assert await asyncio.gather(*(worker.ended(PROMISE) for worker in fresh)) == [0] * WORKERS
        jobs = await place.prove(bus)
    assert {(j.state, j.failures, j.crashes) for j in jobs.values()} == {(JobState.COMPLETED, 0, 0)}
    assert len(jobs) == JOBS // 2 + JOBS // 2 // WORKERS * WORKERS
    effects = [record.job for record in place.records("effect")]
    assert len(effects) == len(set(effects)), "what had started was to finish, not to start anew"


@pytest.mark.parametrize("job_type", ["plain", "blocking"])
async def test_a_second_signal_releases_what_runs_at_once_and_it_costs_nothing(
    place: Place, job_type: str
) -> None:
    async with place.bus() as bus:
        job_id = await bus.enqueue(job_type, {"gate": "open"})
        worker = place.start("impatient")
        await place.seen("started")
        worker.terminate()
        await place.seen("draining")
        assert await bus.get_status(job_id) is JobState.RUNNING
        worker.terminate()
        assert await worker.ended(AT_ONCE) == 0, worker.log
        assert await bus.get_status(job_id) is JobState.QUEUED
        place.open_gate("open")
        await place.work_off(bus)
        job = (await place.prove(bus))[job_id]
    assert (job.state, job.attempt, job.failures, job.crashes) == (JobState.COMPLETED, 2, 0, 0)
    assert EventType.RELEASED in [event.type for event in place.histories[job_id]]


async def test_a_drain_that_takes_too_long_ends_in_release_and_costs_nothing(place: Place) -> None:
    async with place.bus() as bus:
        job_id = await bus.enqueue("plain", {"gate": "open"})
        worker = place.start("patient", drain=0.5)
        await place.seen("started")
        worker.terminate()
        assert await worker.ended(AT_ONCE) == 0, worker.log
        place.open_gate("open")
        await place.work_off(bus)
        job = (await place.prove(bus))[job_id]
    assert (job.state, job.attempt, job.failures, job.crashes) == (JobState.COMPLETED, 2, 0, 0)


async def test_what_runs_may_finish_while_the_worker_drains_and_nothing_new_begins(
    place: Place,
) -> None:
    async with place.bus() as bus:
        running = await bus.enqueue("plain", {"gate": "open"})
        worker = place.start("draining", concurrency=2)
        await place.seen("started")
        worker.terminate()
        await place.seen("draining")
        late = await place.enqueue(bus, 5)
        place.open_gate("open")
        assert await worker.ended() == 0, worker.log
        assert await bus.get_status(running) is JobState.COMPLETED
        assert {await bus.get_status(job_id) for job_id in late} == {JobState.QUEUED}
        await place.work_off(bus)
        jobs = await place.prove(bus)
    assert jobs[running].attempt == 1


async def test_a_worker_killed_while_it_drains_is_charged_with_what_ran_and_no_more(
    place: Place,
) -> None:
    async with place.bus() as bus:
        running, waiting = await _drain_with_one_running(place, bus)
        jobs = await place.prove(bus)
    assert (jobs[running].attempt, jobs[running].crashes) == (2, 1)
    assert {jobs[job_id].crashes for job_id in waiting} == {0}


async def _drain_with_one_running(place: Place, bus: JobBus) -> tuple[str, list[str]]:
    running = await bus.enqueue("plain", {"gate": "open"})
    waiting = await place.enqueue(bus, 5)
    worker = place.start("doomed", concurrency=1)
    await place.seen("started")
    worker.terminate()
    await place.seen("draining")
    worker.kill()
    place.open_gate("open")
    await place.work_off(bus)
    return running, waiting


@pytest.mark.parametrize("label", ["abandon:before", "abandon/move:after", "abandon:after"])
async def test_a_worker_that_dies_while_it_hands_back_leaves_the_job_to_others(
    place: Place, label: str
) -> None:
    async with place.bus() as bus:
        job_id = await bus.enqueue("plain", {"gate": "open"})
        worker = place.start("doomed", point=point(label), drain=0.2)
        await place.seen("started")
        worker.terminate()
        await worker.died()
        place.open_gate("open")
        await place.work_off(bus)
        job = (await place.prove(bus))[job_id]
    crashes = 0 if label == "abandon:after" else 1
    assert (job.state, job.attempt, job.failures) == (JobState.COMPLETED, 2, 0)
    assert job.crashes == crashes
