"""Chancy with its executor for coroutines, 1,000 at once, and eager polling."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from chancy import Chancy, Queue, Worker, job

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

done = 0
finished = asyncio.Event()
wanted = 0
picked = asyncio.Event()
picked_at: list[float] = []


@job()
async def nothing(*, payload: dict[str, Any]) -> None:
    global done
    done += 1
    if done >= wanted:
        finished.set()


@job()
async def note(*, payload: dict[str, Any]) -> None:
    picked_at.append(time.perf_counter())
    picked.set()


def queue() -> Queue:
    return Queue(
        "default",
        concurrency=1000,
        executor="chancy.executors.asyncex.AsyncExecutor",
        polling_interval=1,
        eager_polling=True,
    )


async def prepared(app: Chancy) -> None:
    await app.migrate()
    await app.declare(queue())


async def enqueue(case: Case) -> None:
    async with Chancy(case.url) as app:
        await prepared(app)
        watch = Stopwatch(case)
        with watch.running():
            for _ in range(case.jobs):
                await app.push(nothing.job.with_kwargs(payload=PAYLOAD))
        tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    async with Chancy(case.url) as app:
        await prepared(app)
        watch = Stopwatch(case)
        with watch.running():
            await fill(app, case.jobs)
        tell(rate_answer(watch))


async def drain(case: Case) -> None:
    global wanted
    wanted = case.jobs
    async with Chancy(case.url) as app:
        await prepared(app)
        await fill(app, case.jobs)
        watch = Stopwatch(case)
        with watch.running():
            async with Worker(app, register_signal_handlers=False, shutdown_timeout=10):
                await finished.wait()
        tell(rate_answer(watch))


async def latency(case: Case) -> None:
    seconds = []
    async with Chancy(case.url) as app:
        await prepared(app)
        async with Worker(app, register_signal_handlers=False, shutdown_timeout=10):
            await asyncio.sleep(1)
            for _ in range(case.jobs + WARM_UP):
                await asyncio.sleep(0.01)
                picked.clear()
                sent = time.perf_counter()
                await app.push(note.job.with_kwargs(payload=PAYLOAD))
                await picked.wait()
                seconds.append(picked_at[-1] - sent)
    tell(latency_answer(seconds))


async def fill(app: Chancy, jobs: int) -> None:
    one = nothing.job.with_kwargs(payload=PAYLOAD)
    for _ in range(jobs // 1000):
        async for _ in app.push_many([one] * 1000):
            pass
