"""The raw redis-py loop on a stream: added in pipelines of 1000, read and acknowledged in hundreds.

A stream keeps what was acknowledged, so that the payload stays; nobody notes a result or a time.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from redis.asyncio import Redis

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

STREAM, GROUP, WORKER = "raw", "workers", "one"
BATCH = 500
PIPELINE = 1000
BODY = json.dumps(PAYLOAD)


def connect(case: Case) -> Any:
    # Its types allow for answers that only other protocols give.
    return Redis.from_url(case.url, protocol=2)


async def prepare(case: Case) -> Any:
    client = connect(case)
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    return client


async def fill(client: Any, jobs: int) -> None:
    for _ in range(jobs // PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for _ in range(PIPELINE):
            pipeline.xadd(STREAM, {"body": BODY})
        await pipeline.execute()


async def acknowledge(client: Any, entries: Any) -> None:
    await client.xack(STREAM, GROUP, *(number for number, _ in entries))


async def enqueue(case: Case) -> None:
    client = await prepare(case)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            await client.xadd(STREAM, {"body": BODY})
    tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    client = await prepare(case)
    watch = Stopwatch(case)
    with watch.running():
        await fill(client, case.jobs)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    client = await prepare(case)
    await fill(client, case.jobs)

    async def handler(payload: dict[str, Any]) -> int:
        return 1

    watch = Stopwatch(case)
    with watch.running():
        settling: asyncio.Task[None] | None = None
        while found := await client.xreadgroup(GROUP, WORKER, {STREAM: ">"}, count=BATCH):
            entries = found[0][1]
            for _, fields in entries:
                await handler(json.loads(fields[b"body"]))
            if settling is not None:
                await settling
            settling = asyncio.create_task(acknowledge(client, entries))
        if settling is not None:
            await settling
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    """Pick-up by a read that waits already, from just before the add to the handler."""
    producer = await prepare(case)
    worker = connect(case)
    seconds: list[float] = []
    sent = 0.0
    picked = asyncio.Event()

    async def work() -> None:
        while True:
            found = await worker.xreadgroup(GROUP, WORKER, {STREAM: ">"}, count=10, block=5000)
            if found:
                seconds.append(time.perf_counter() - sent)
                picked.set()
                await acknowledge(worker, found[0][1])

    working = asyncio.create_task(work())
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await producer.xadd(STREAM, {"body": BODY})
        await picked.wait()
    working.cancel()
    tell(latency_answer(seconds))
