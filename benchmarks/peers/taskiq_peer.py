"""taskiq on aio-pika: its own durable queue, 100 tasks at once, prefetch 100."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq.receiver import Receiver
from taskiq_aio_pika import AioPikaBroker

from benchmarks.case import PAYLOAD, Case, Stopwatch, rate_answer, tell

CASES = ("enqueue", "bulk", "drain")
WINDOW = 500


async def run(case: Case) -> None:
    broker = AioPikaBroker(case.url, qos=100)
    done = 0
    finished = asyncio.Event()

    @broker.task
    async def nothing(payload: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if done >= case.jobs:
            finished.set()

    async def fill() -> None:
        for _ in range(case.jobs // WINDOW):
            await asyncio.gather(*(nothing.kiq(PAYLOAD) for _ in range(WINDOW)))

    broker.is_worker_process = case.name == "drain"
    await broker.startup()
    watch = Stopwatch(case)
    match case.name:
        case "enqueue":
            with watch.running():
                for _ in range(case.jobs):
                    await nothing.kiq(PAYLOAD)
        case "bulk":
            with watch.running():
                await fill()
        case "drain":
            await fill()
            receiver = Receiver(broker, max_async_tasks=100, run_startup=False)
            stopping = asyncio.Event()
            with watch.running():
                working = asyncio.create_task(receiver.listen(stopping))
                await finished.wait()
            stopping.set()
            working.cancel()
    tell(rate_answer(watch))
    await broker.shutdown()
