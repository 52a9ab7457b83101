"""Procrastinate on psycopg, with 30 jobs at once; it acknowledges each job by itself."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

AT_ONCE = 30


def application(case: Case) -> App:
    return App(connector=PsycopgConnector(conninfo=case.url, min_size=2, max_size=20))


async def enqueue(case: Case) -> None:
    app = application(case)
    task = app.task(name="nothing")(_nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        watch = Stopwatch(case)
        with watch.running():
            for _ in range(case.jobs):
                await task.defer_async(payload=PAYLOAD)
        tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    app = application(case)
    task = app.task(name="nothing")(_nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        watch = Stopwatch(case)
        with watch.running():
            await _fill(task, case.jobs)
        tell(rate_answer(watch))


async def drain(case: Case) -> None:
    app = application(case)
    task = app.task(name="nothing")(_nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await _fill(task, case.jobs)
        watch = Stopwatch(case)
        with watch.running():
            await app.run_worker_async(
                wait=False, concurrency=AT_ONCE, install_signal_handlers=False
            )
        tell(rate_answer(watch))


async def latency(case: Case) -> None:
    app = application(case)
    picked = asyncio.Event()
    seconds, sent = [], 0.0

    @app.task(name="note")
    async def note(payload: dict[str, Any]) -> None:
        seconds.append(time.perf_counter() - sent)
        picked.set()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        working = asyncio.create_task(
            app.run_worker_async(concurrency=AT_ONCE, install_signal_handlers=False)
        )
        await asyncio.sleep(0.5)
        for _ in range(case.jobs + WARM_UP):
            await asyncio.sleep(0.01)
            picked.clear()
            sent = time.perf_counter()
            await note.defer_async(payload=PAYLOAD)
            await picked.wait()
        working.cancel()
        await asyncio.wait({working})
    tell(latency_answer(seconds))


async def _nothing(payload: dict[str, Any]) -> int:
    return 1


async def _fill(task: Any, jobs: int) -> None:
    for _ in range(jobs // 1000):
        await task.batch_defer_async(*[{"payload": PAYLOAD} for _ in range(1000)])
