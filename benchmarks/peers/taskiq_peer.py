"""taskiq, 100 tasks at once: on aio-pika with prefetch 100, on Redis reading streams by 100."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from taskiq import AsyncBroker
from taskiq.receiver import Receiver

from benchmarks.case import PAYLOAD, Case, Stopwatch, rate_answer, tell

CASES = ("enqueue", "bulk", "drain")
WINDOW = 500


def prepare_backend(backend: str) -> None:
    """Raises ImportError where its broker for this backend is not installed."""
    import_module("taskiq_redis" if backend == "redis" else "taskiq_aio_pika")


def broker_at(url: str) -> AsyncBroker:
    if url.startswith("redis"):
        from taskiq_redis import RedisStreamBroker

        return RedisStreamBroker(url, xread_count=100)
    from taskiq_aio_pika import AioPikaBroker

    return AioPikaBroker(url, qos=100)


async def run(case: Case) -> None:
    broker = broker_at(case.url)
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
