"""A handler that kills its process is found out and set aside; its neighbours pay nothing."""

from __future__ import annotations

from typing import Final

import pytest

from jobbus.job import EventType, Job, JobState
from tests.crash.place import Place

pytestmark = pytest.mark.crash

NEIGHBOURS: Final = 20
MAX_CRASHES: Final = 3
MANY_STARTS: Final = 120.0
"""Seconds that nine workers may take to start, one after the other, on a busy machine."""


def is_poison(job: Job) -> bool:
    return (
        job.state is JobState.FAILED
        and job.crashes == MAX_CRASHES
        and job.problem is not None
        and job.problem.kind == "poison_crash"
    )


@pytest.mark.parametrize("killers", [1, 3])
async def test_a_job_that_kills_its_worker_thrice_is_set_aside_and_its_neighbours_complete(
    place: Place, killers: int
) -> None:
    async with place.bus() as bus:
        await place.enqueue(bus, NEIGHBOURS // 2, seconds=0.01)
        poison = [await bus.enqueue("killer") for _ in range(killers)]
        await place.enqueue(bus, NEIGHBOURS // 2, seconds=0.01)
        supervisor = place.start("supervised", role="supervise")
        await place.until_done(bus, seconds=MANY_STARTS)
        supervisor.terminate()
        assert await supervisor.ended() == 0, supervisor.log
        jobs = await place.prove(bus)
    neighbours = [job for job in jobs.values() if job.id not in poison]
    assert {job.state for job in neighbours} == {JobState.COMPLETED}
    assert all(is_poison(jobs[job_id]) for job_id in poison)
    told = [event.type for event in place.histories[poison[0]]]
    assert told.count(EventType.CRASHED) == MAX_CRASHES - 1
    assert MAX_CRASHES <= len(place.records("dying")) <= MAX_CRASHES * killers


async def test_a_suspects_outcome_is_safe_before_the_next_suspect_runs(place: Place) -> None:
    """Else the one before a killer would be blamed with it, whenever the database is slow."""
    async with place.bus() as bus:
        innocent = await bus.enqueue("plain", {"gate": "open"})
        poison = await bus.enqueue("killer")
        supervisor = place.start("supervised", role="supervise", slow_settling=0.3)
        await place.seen("dying")
        place.open_gate("open")
        await place.until_done(bus, seconds=MANY_STARTS)
        supervisor.terminate()
        assert await supervisor.ended() == 0, supervisor.log
        jobs = await place.prove(bus)
    assert (jobs[innocent].state, jobs[innocent].crashes) == (JobState.COMPLETED, 1)
    assert is_poison(jobs[poison])


async def test_a_handler_that_dies_in_its_own_process_costs_only_its_own_job(place: Place) -> None:
    folder = {"folder": str(place.folder)}
    async with place.bus() as bus:
        siblings = [await bus.enqueue("isolated_plain", folder) for _ in range(5)]
        poison = [
            await bus.enqueue(name, folder) for name in ("isolated_killer", "isolated_victim")
        ]
        siblings += [await bus.enqueue("isolated_plain", folder) for _ in range(5)]
        siblings += await place.enqueue(bus, 5, seconds=0.05)
        worker = place.start("worker")
        await place.until_done(bus, seconds=MANY_STARTS)
        worker.terminate()
        assert await worker.ended() == 0, worker.log
        jobs = await place.prove(bus)
    assert {(jobs[id].state, jobs[id].attempt, jobs[id].crashes) for id in siblings} == {
        (JobState.COMPLETED, 1, 0)
    }
    assert all(is_poison(jobs[job_id]) for job_id in poison)
    assert [jobs[job_id].attempt for job_id in poison] == [MAX_CRASHES] * 2
