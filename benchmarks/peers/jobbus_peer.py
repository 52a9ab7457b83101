"""jobbus as a user gets it: every guarantee on, the default worker, a no-op async handler."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from benchmarks.case import PAYLOAD, Case, Stopwatch, latency_answer, rate_answer, tell
from benchmarks.sqs import counting_requests
from jobbus import JobBus, Worker

bus = JobBus()
picked_at: list[float] = []
picked = asyncio.Event()


@bus.job
async def nothing(payload: dict[str, Any]) -> int:
    return 1


@bus.job
async def note(payload: dict[str, Any]) -> int:
    picked_at.append(time.perf_counter())
    picked.set()
    return 1


async def run(case: Case) -> None:
    await {"enqueue": enqueue, "bulk": bulk, "drain": drain, "latency": latency}[case.name](case)


async def opened() -> None:
    if bus.settings.provider == "postgres":
        queue: Any = bus.queue
        await queue.migrate()
    await bus.open()


async def fill(jobs: int) -> None:
    for _ in range(jobs // 1000):
        await bus.enqueue_many([nothing.message(PAYLOAD) for _ in range(1000)])


async def enqueue(case: Case) -> None:
    await opened()
    watch = Stopwatch()
    with watch.running():
        for _ in range(case.jobs):
            await nothing.enqueue(PAYLOAD)
    tell(rate_answer(case, watch))
    await bus.close()


async def bulk(case: Case) -> None:
    await opened()
    watch = Stopwatch()
    with watch.running():
        await fill(case.jobs)
    tell(rate_answer(case, watch))
    await bus.close()


async def drain(case: Case) -> None:
    await opened()
    await fill(case.jobs)
    done = 0
    finished = asyncio.Event()

    def count(report: object) -> None:
        nonlocal done
        done += 1
        if done >= case.jobs:
            finished.set()

    worker = Worker(bus, concurrency=500 if case.setting == "best" else None)
    worker.observers.append(count)
    requests = counting_requests() if bus.settings.provider == "aws_sqs" else None
    watch = Stopwatch()
    with watch.running():
        working = asyncio.create_task(worker.run())
        await finished.wait()
        worker.stop()
        await working
    counted = {} if requests is None else {"requests_per_job": requests() / case.jobs}
    tell({**rate_answer(case, watch), **counted})
    await bus.close()


async def latency(case: Case) -> None:
    await opened()
    worker = Worker(bus)
    working = asyncio.create_task(worker.run())
    seconds = []
    for number in range(case.jobs + 10):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await note.enqueue(PAYLOAD)
        async with asyncio.timeout(timedelta(seconds=10).total_seconds()):
            await picked.wait()
        if number >= 10:
            seconds.append(picked_at[-1] - sent)
    worker.stop()
    await working
    tell(latency_answer(seconds))
    await bus.close()
