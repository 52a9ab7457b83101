"""SAQ with fifty jobs at once; it keeps a finished job for ten minutes, as it does by default."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from saq import Queue, Worker

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

CASES: Final = ("enqueue", "bulk", "drain", "latency")
CONCURRENCY: Final = 50
WINDOW: Final = 500


async def run(case: Case) -> None:
    # Each slot waits on a connection of its own.
    queue = Queue.from_url(case.url)
    await queue.connect()
    watch = Stopwatch(case)
    match case.name:
        case "enqueue":
            with watch.running():
                for _ in range(case.jobs):
                    await queue.enqueue("nothing", payload=PAYLOAD)
        case "bulk":
            with watch.running():
                await fill(queue, case.jobs)
        case "drain":
            await fill(queue, case.jobs)
            await drain(case, queue, watch)
        case "latency":
            await latency(case, queue)
            return
    tell(rate_answer(watch))


async def fill(queue: Queue, jobs: int) -> None:
    for _ in range(jobs // WINDOW):
        await asyncio.gather(*(queue.enqueue("nothing", payload=PAYLOAD) for _ in range(WINDOW)))


async def drain(case: Case, queue: Queue, watch: Stopwatch) -> None:
    done = 0
    finished = asyncio.Event()

    async def nothing(context: Any, *, payload: dict[str, Any]) -> int:
        return 1

    async def count(context: Any) -> None:
        nonlocal done
        done += 1
        if done >= case.jobs:
            finished.set()

    worker = Worker(queue, [("nothing", nothing)], concurrency=CONCURRENCY, after_process=count)
    with watch.running():
        working = asyncio.create_task(worker.start())
        await finished.wait()
    working.cancel()


async def latency(case: Case, queue: Queue) -> None:
    picked = asyncio.Event()
    seconds: list[float] = []
    sent = 0.0

    async def note(context: Any, *, payload: dict[str, Any]) -> int:
        seconds.append(time.perf_counter() - sent)
        picked.set()
        return 1

    working = asyncio.create_task(Worker(queue, [("note", note)], concurrency=10).start())
    await asyncio.sleep(0.5)
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await queue.enqueue("note", payload=PAYLOAD)
        await picked.wait()
    tell(latency_answer(seconds))
    working.cancel()
