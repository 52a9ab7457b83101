"""arq with a hundred jobs at once; it keeps a result for an hour, as it does by default."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from arq import Worker, create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

CASES: Final = ("enqueue", "bulk", "drain", "latency")
JOBS_AT_ONCE: Final = 100
WINDOW: Final = 50
"""Enqueued at once, each on a connection of its own."""
POLL_DELAY: Final = 0.01
"""It asks for new jobs in turns; half a second by default."""


async def run(case: Case) -> None:
    address = RedisSettings.from_dsn(case.url)
    # A job at work takes one for its result.
    address.max_connections = 2 * JOBS_AT_ONCE
    pool = await create_pool(address)
    watch = Stopwatch(case)
    match case.name:
        case "enqueue":
            with watch.running():
                for _ in range(case.jobs):
                    await pool.enqueue_job("nothing", PAYLOAD)
        case "bulk":
            with watch.running():
                await fill(pool, case.jobs)
        case "drain":
            await fill(pool, case.jobs)
            await drain(case, pool, watch)
        case "latency":
            await latency(case, pool)
            return
    tell(rate_answer(watch))


async def fill(pool: ArqRedis, jobs: int) -> None:
    for _ in range(jobs // WINDOW):
        await asyncio.gather(*(pool.enqueue_job("nothing", PAYLOAD) for _ in range(WINDOW)))


async def drain(case: Case, pool: ArqRedis, watch: Stopwatch) -> None:
    done = 0
    finished = asyncio.Event()

    async def nothing(context: Any, payload: dict[str, Any]) -> int:
        return 1

    async def count(context: Any) -> None:
        nonlocal done
        done += 1
        if done >= case.jobs:
            finished.set()

    worker = Worker(
        [func(nothing, name="nothing")],
        redis_pool=pool,
        max_jobs=JOBS_AT_ONCE,
        poll_delay=POLL_DELAY,
        after_job_end=count,
        handle_signals=False,
    )
    with watch.running():
        working = asyncio.create_task(worker.main())
        await finished.wait()
    working.cancel()


async def latency(case: Case, pool: ArqRedis) -> None:
    picked = asyncio.Event()
    seconds: list[float] = []
    sent = 0.0

    async def note(context: Any, payload: dict[str, Any]) -> int:
        seconds.append(time.perf_counter() - sent)
        picked.set()
        return 1

    worker = Worker(
        [func(note, name="note")], redis_pool=pool, poll_delay=POLL_DELAY, handle_signals=False
    )
    working = asyncio.create_task(worker.main())
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await pool.enqueue_job("note", PAYLOAD)
        await picked.wait()
    tell(latency_answer(seconds))
    working.cancel()
