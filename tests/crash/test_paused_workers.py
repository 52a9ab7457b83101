"""A worker is frozen beyond its lease, and thaws: whatever it then reports comes too late."""

from __future__ import annotations

import json
import signal
from typing import Final

import pytest

from jobbus.job import EventType, JobState
from tests.crash.history import Record
from tests.crash.place import Place, point

pytestmark = pytest.mark.crash

LEASE: Final = 1.5
"""Seconds; short, since all of these tests wait until it is over."""


@pytest.mark.parametrize(
    ("verb", "job_type", "state", "attempt"),
    [
        ("complete", "plain", JobState.COMPLETED, 2),
        ("abandon", "fails_once", JobState.COMPLETED, 3),
        ("dead_letter", "fails_for_good", JobState.FAILED, 2),
    ],
)
async def test_an_outcome_that_is_reported_after_a_takeover_is_refused(
    place: Place, verb: str, job_type: str, state: JobState, attempt: int
) -> None:
    async with place.bus() as bus:
        job_id = await bus.enqueue(job_type)
        frozen = place.start(
            "frozen", point=point(f"{verb}:before", with_signal=signal.SIGSTOP), lease=LEASE
        )
        await place.seen("stopping")
        await place.work_off(bus)
        await place.look(bus)
        frozen.resume()

        def by_the_frozen(record: Record) -> bool:
            return record.process == frozen.name and record.detail["verb"] == verb

        (late,) = await place.seen("settled", where=by_the_frozen)
        assert (late.attempt, late.detail["accepted"]) == (1, False)
        frozen.terminate()
        assert await frozen.ended() == 0, frozen.log
        job = (await place.prove(bus))[job_id]
    assert (job.state, job.attempt, job.crashes) == (state, attempt, 1)
    if state is JobState.COMPLETED:
        assert json.loads(job.result or b"") == attempt
    told = [event for event in place.histories[job_id] if event.type is EventType.FENCED]
    assert [event.attempt for event in told] == [1]


async def test_a_worker_frozen_in_its_handler_learns_that_it_lost_the_job_and_works_on(
    place: Place,
) -> None:
    async with place.bus() as bus:
        job_id = await bus.enqueue("plain", {"gate": "open"})
        # Between two renewals, where it holds no lock that others need.
        after = point("extend:after", with_signal=signal.SIGSTOP)
        frozen = place.start("frozen", point=after, lease=LEASE, concurrency=1)
        await place.seen("stopping")
        place.open_gate("open")
        await place.work_off(bus)
        await place.look(bus)
        frozen.resume()
        another = await bus.enqueue("plain")
        await place.until_done(bus)
        frozen.terminate()
        assert await frozen.ended() == 0, frozen.log
        jobs = await place.prove(bus)
    assert json.loads(jobs[job_id].result or b"") == 2
    assert f":{frozen.pid}:" in (jobs[another].worker or "")


# On SQLite, whoever is frozen within a write transaction holds up all writers: that is its nature.


async def test_an_effect_in_a_transaction_is_rolled_back_when_the_job_was_taken_over(
    postgres_place: Place,
) -> None:
    place = postgres_place
    async with place.bus() as bus:
        job_id = await bus.enqueue("transactional")
        frozen = place.start(
            "frozen", point=point("complete_in:before", with_signal=signal.SIGSTOP), lease=LEASE
        )
        await place.seen("stopping")
        await place.work_off(bus)
        frozen.resume()
        frozen.terminate()
        assert await frozen.ended() == 0, frozen.log
        jobs = await place.prove(bus, effects=await place.effects())
    assert (jobs[job_id].attempt, jobs[job_id].state) == (2, JobState.COMPLETED)


async def test_a_worker_frozen_with_its_job_locked_holds_up_no_other_job(
    postgres_place: Place,
) -> None:
    """Its transaction has completed the job and is not committed: nobody else can touch the row."""
    place = postgres_place
    async with place.bus() as bus:
        locked = await bus.enqueue("transactional")
        frozen = place.start(
            "frozen", point=point("commit:before", with_signal=signal.SIGSTOP), lease=LEASE
        )
        await place.seen("stopping")
        also_lapsed = await bus.enqueue("plain", {"gate": "open"}, queue="other")
        beside = place.start("beside", queues=["other"], lease=LEASE)
        await place.seen("started", where=lambda record: record.job == also_lapsed)
        beside.stop()
        place.open_gate("open")
        others = await place.enqueue(bus, 20)
        place.start("healthy", queues=["default", "other"], lease=LEASE)

        async def done() -> bool:
            states = {id: await bus.get_status(id) for id in [*others, also_lapsed]}
            return set(states.values()) == {JobState.COMPLETED}

        await place.until("the other jobs to complete", done)
        frozen.resume()
        beside.resume()
        await place.until_done(bus)
        jobs = await place.prove(bus)
    assert jobs[locked].attempt == 1
