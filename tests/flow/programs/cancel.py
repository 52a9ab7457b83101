"""Cancels a job: ``cancel ADDRESS JOB_ID``."""

from __future__ import annotations

import asyncio
import sys

from jobbus import JobBus


async def main(address: str, job_id: str) -> None:
    async with JobBus(address) as bus:
        outcomes = await bus.cancel(job_id, reason="asked from outside")
        print(outcomes[job_id])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
