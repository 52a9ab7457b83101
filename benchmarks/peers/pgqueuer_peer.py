"""PgQueuer on asyncpg, at its default batch of 10 or, as ``best``, at 500."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

BODY = json.dumps(PAYLOAD).encode()


async def connect(case: Case) -> Any:
    return await asyncpg.connect(case.url)


async def prepare(case: Case) -> Queries:
    queries = Queries(AsyncpgDriver(await connect(case)))
    await queries.install()
    return queries


async def fill(queries: Queries, jobs: int) -> None:
    for _ in range(jobs // 1000):
        await queries.enqueue(["nothing"] * 1000, [BODY] * 1000, [0] * 1000)


async def enqueue(case: Case) -> None:
    queries = await prepare(case)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            await queries.enqueue("nothing", BODY)
    tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    queries = await prepare(case)
    watch = Stopwatch(case)
    with watch.running():
        await fill(queries, case.jobs)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    queries = await prepare(case)
    await fill(queries, case.jobs)
    worker = PgQueuer(AsyncpgDriver(await connect(case)))

    @worker.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        json.loads(job.payload or b"null")

    watch = Stopwatch(case)
    with watch.running():
        await worker.run(
            batch_size=500 if case.setting == "best" else 10, mode=QueueExecutionMode.drain
        )
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    queries = await prepare(case)
    worker = PgQueuer(AsyncpgDriver(await connect(case)))
    picked = asyncio.Event()
    seconds, sent = [], 0.0

    @worker.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        seconds.append(time.perf_counter() - sent)
        picked.set()

    working = asyncio.create_task(worker.run())
    await asyncio.sleep(0.5)
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await queries.enqueue("nothing", BODY)
        await picked.wait()
    worker.shutdown.set()
    await working
    tell(latency_answer(seconds))
