"""When nothing goes wrong, at-least-once is once."""

from __future__ import annotations

from typing import Final

import pytest

from jobbus.job import JobState
from tests.crash.place import Place

pytestmark = pytest.mark.crash

JOBS: Final = 2000
BATCH: Final = 100


async def test_two_workers_on_one_queue_run_every_job_exactly_once(place: Place) -> None:
    async with place.bus() as bus:
        workers = [place.start(f"worker-{number}", concurrency=10) for number in range(2)]
        await place.seen("ready", number=2)
        for _ in range(JOBS // BATCH):
            await place.enqueue(bus, BATCH)
        await place.until_done(bus)
        for worker in workers:
            worker.terminate()
            assert await worker.ended() == 0, worker.log
        jobs = await place.prove(bus)
    ends = {(job.state, job.failures, job.crashes) for job in jobs.values()}
    assert ends == {(JobState.COMPLETED, 0, 0)}
    effects = place.records("effect")
    assert sorted(record.job for record in effects) == sorted(jobs)
    assert {record.process for record in effects} == {worker.name for worker in workers}
