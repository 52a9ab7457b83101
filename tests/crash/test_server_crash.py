"""The database goes down under its workers. They outlive it, and so does every job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from jobbus.bus import JobBus
from jobbus.job import JobState
from tests.crash.checker import EVERYBODY
from tests.crash.place import Place, Process
from tests.services import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

JOBS: Final = 200
WORKERS: Final = 2
SLOTS: Final = 4
"""Of each worker."""
LEASE: Final = 5.0
"""Seconds; what was handed out as the server died comes back when it is over."""


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_jobs_and_workers_survive_the_death_of_the_database(
    crashing_place: Place, owned_postgres: PostgresServer, how: str
) -> None:
    place = crashing_place
    async with place.bus() as bus:
        await place.enqueue(bus, JOBS, seconds=0.02)
        workers = _start(place)
        for part in (JOBS // 4, JOBS // 2):
            await place.seen("effect", number=part)
            place.note("cut", process=EVERYBODY)
            await asyncio.to_thread(getattr(owned_postgres, how))
            await asyncio.to_thread(owned_postgres.start)
        await place.until_done(bus)
        await _all_serve_as_before(place, bus, workers)
        jobs = await place.prove(bus)
    assert {job.state for job in jobs.values()} == {JobState.COMPLETED}
    assert len(jobs) == JOBS + len(workers)


async def test_jobs_outlive_a_database_that_is_away_for_longer_than_their_leases(
    crashing_place: Place, owned_postgres: PostgresServer
) -> None:
    """Their workers stop before anybody else may begin; afterwards the jobs run again."""
    place = crashing_place
    async with place.bus() as bus:
        ids = await place.enqueue(bus, WORKERS * SLOTS, gate="open")
        workers = _start(place, lease=3.0)
        await place.seen("started", number=len(ids))
        place.note("cut", process=EVERYBODY)
        await asyncio.to_thread(owned_postgres.crash)

        stopped = await place.seen("interrupted", number=len(ids))
        kept = [*place.records("claimed"), *place.records("renewed")]
        for record in stopped:
            ends = [r.detail["before"] + r.detail["lease"] for r in kept if r.job == record.job]
            assert record.monotonic <= max(ends), "it went on under a lease that had run out"
        await asyncio.to_thread(owned_postgres.start)
        place.open_gate("open")
        await place.until_done(bus)
        await _all_serve_as_before(place, bus, workers)
        jobs = await place.prove(bus)
    assert {(jobs[id].state, jobs[id].attempt, jobs[id].crashes) for id in ids} == {
        (JobState.COMPLETED, 2, 1)
    }


def _start(place: Place, lease: float = LEASE) -> list[Process]:
    return [
        place.start(f"worker-{n}", queues=["default", f"own-{n}"], concurrency=SLOTS, lease=lease)
        for n in range(WORKERS)
    ]


async def _all_serve_as_before(place: Place, bus: JobBus, workers: Sequence[Process]) -> None:
    """No worker has become one that is there and takes nothing; and all of them can leave."""
    assert all(worker.alive for worker in workers)
    for number in range(WORKERS):
        await bus.enqueue("plain", queue=f"own-{number}")
    await place.until_done(bus)
    for worker in workers:
        worker.terminate()
        assert await worker.ended() == 0, worker.log
