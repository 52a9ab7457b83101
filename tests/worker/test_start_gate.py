"""Nothing starts under a lease that has run out on its way to the handler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from jobbus import JobBus, JobContext, JobState, Worker, load_settings
from jobbus.backends.memory import MemoryQueue
from jobbus.job import EventType
from jobbus.message import Delivery
from jobbus.testing.wrapping import QueueWrapper

LEASE: Final = timedelta(seconds=60)


class LateOnce(QueueWrapper):
    """Brings its first deliveries when their leases are over, as a network that hangs does."""

    late = True

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        held = await super().receive(queue, limit=limit, wait=wait, lease=lease)
        if not held or not self.late:
            return held
        self.late = False
        asked = time.monotonic() - lease.total_seconds()
        return [replace(one, received_at=asked) for one in held]


async def test_a_job_whose_lease_ran_out_on_the_way_is_handed_back_and_runs_under_the_next(
    tmp_path: Path,
) -> None:
    """D-4: a lease counts from when the queue was asked, not from when it answered."""
    attempts: list[int] = []
    settings = load_settings({"backend": "memory"}, environ={}, directory=tmp_path)
    async with JobBus(settings, queue=LateOnce(MemoryQueue())) as bus:

        @bus.job
        async def noting(context: JobContext) -> None:
            attempts.append(context.attempt)

        job_id = await noting.enqueue()
        await Worker(bus, lease=LEASE, burst=True).run()
        job = await bus.get(job_id)
        told = [event.type for event in await bus.history(job_id)]
    assert attempts == [2]
    assert job is not None
    assert (job.state, job.failures, job.crashes) == (JobState.COMPLETED, 0, 0)
    assert EventType.RELEASED in told
