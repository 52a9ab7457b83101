"""Whose worker is dead, or has lost its lease, is given to another: soon, and nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import psycopg
import pytest

from jobbus.job import JobState
from jobbus.store import CancelOutcome
from tests.crash.place import Place, point

pytestmark = pytest.mark.crash

LONG: Final = 600.0
"""A lease, in seconds, that no test waits for."""
SHORT: Final = 3.0
"""One that is renewed every second."""
MANY: Final = 60
"""More jobs, each under a lease of its own, than are taken back in one go."""


async def test_a_worker_that_starts_again_takes_back_all_that_its_dead_self_held_at_once(
    place: Place,
) -> None:
    """Its process is known to be dead, so that nobody waits for the leases."""
    async with place.bus() as bus:
        first = place.start("first", concurrency=MANY, lease=LONG)
        for number in range(1, MANY + 1):
            await place.enqueue(bus, 1, gate="open")
            await place.seen("started", number=number)
        first.kill()
        place.open_gate("open")
        again = place.start("again", concurrency=MANY, lease=LONG)
        await place.until_done(bus)
        again.terminate()
        assert await again.ended() == 0, again.log
        jobs = await place.prove(bus)
    assert {(job.state, job.attempt, job.crashes, job.failures) for job in jobs.values()} == {
        (JobState.COMPLETED, 2, 1, 0)
    }


async def test_a_handler_that_blocks_the_event_loop_beyond_its_lease_keeps_its_job(
    place: Place,
) -> None:
    """Whoever else may come meanwhile."""
    async with place.bus() as bus:
        job_id = await bus.enqueue("obstinate", {"gate": "open"})
        place.start("first", lease=SHORT)
        await place.seen("started")
        place.start("second", lease=SHORT)
        await place.seen("ready", number=2)
        await place.seen("renewed", number=len(place.records("renewed")) + 4)
        place.open_gate("open")
        await place.until_done(bus)
        jobs = await place.prove(bus)
    assert (jobs[job_id].attempt, jobs[job_id].crashes) == (1, 0)


async def test_recover_stuck_background_jobs_takes_lapsed_leases_and_leaves_live_ones(
    postgres_place: Place,
) -> None:
    place = postgres_place
    async with place.bus() as bus:
        alive = await bus.enqueue("plain", {"gate": "open"}, queue="other")
        # Busy before the others begin: else it would take their jobs back by itself.
        place.start("living", queues=["other"], concurrency=1)
        await place.seen("started")
        message = await bus.message_for("plain", {"gate": "open"})
        (poison,) = await bus.enqueue_many([replace(message, max_crashes=1)])
        (unwanted, *stuck) = await place.enqueue(bus, 3, gate="open")
        follower = await bus.enqueue("plain", depends_on=[stuck[0]])
        frozen = place.start("frozen", lease=1.0, concurrency=4)
        await place.seen("started", number=5)
        frozen.stop()
        assert await bus.cancel(unwanted) == {unwanted: CancelOutcome.REQUESTED}
        assert await asyncio.to_thread(_recover, place.address, 60) == {}
        recovered = await _recovered(place, 4)
        ends = {poison: "failed", unwanted: "cancelled", **dict.fromkeys(stuck, "queued")}
        assert recovered == ends
        assert await bus.get_status(alive) is JobState.RUNNING
        place.open_gate("open")
        await place.work_off(bus)
        frozen.resume()
        await place.until_done(bus)
        frozen.terminate()
        assert await frozen.ended() == 0, frozen.log
        jobs = await place.prove(bus)
    assert {id: (job.state, job.attempt, job.crashes) for id, job in jobs.items()} == {
        poison: (JobState.FAILED, 1, 1),
        unwanted: (JobState.CANCELLED, 1, 0),
        **dict.fromkeys(stuck, (JobState.COMPLETED, 2, 1)),
        follower: (JobState.COMPLETED, 1, 0),
        alive: (JobState.COMPLETED, 1, 0),
    }
    assert "poison_crash" in str(jobs[poison].problem)


async def _recovered(place: Place, number: int) -> dict[str, str]:
    """What became of so many jobs, as soon as their leases have lapsed."""
    found: dict[str, str] = {}

    async def enough() -> bool:
        found.update(await asyncio.to_thread(_recover, place.address, 0))
        return len(found) >= number

    await place.until("the leases to lapse", enough)
    return found


def _recover(url: str, minutes: int) -> Mapping[str, str]:
    """What an operator types at a SQL prompt."""
    with psycopg.connect(url) as connection:
        query = "SELECT job_id::text, recovered_to FROM recover_stuck_background_jobs(%s)"
        return dict(connection.execute(query, [minutes]).fetchall())


async def test_a_job_that_is_recovered_keeps_the_deadline_for_its_start(
    postgres_place: Place,
) -> None:
    """While it waits again, it may expire as before."""
    place = postgres_place
    async with place.bus() as bus:
        job_id = await bus.enqueue("plain", {"gate": "open"}, expires_in=4.0)
        await place.start("victim", point=point("handler:before_effect"), lease=1.0).died()
        assert await _recovered(place, 1) == {job_id: "queued"}
        await bus.pause("default")
        worker = place.start("keeper")
        await place.until_done(bus)
        worker.terminate()
        assert await worker.ended() == 0, worker.log
        jobs = await place.prove(bus)
    assert (jobs[job_id].state, jobs[job_id].attempt) == (JobState.EXPIRED, 1)
