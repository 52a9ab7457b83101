"""FastStream on aio-pika: a durable classic queue, persistent messages, prefetch 100."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks.case import PAYLOAD, Case, Stopwatch, latency_answer, rate_answer, tell

QUEUE = RabbitQueue("faststream", durable=True)
WINDOW = 500


async def opened(case: Case) -> RabbitBroker:
    broker = RabbitBroker(case.url, default_channel=Channel(prefetch_count=100), logger=None)
    await broker.connect()
    await broker.declare_queue(QUEUE)
    return broker


async def publish(broker: RabbitBroker) -> None:
    await broker.publish(PAYLOAD, queue=QUEUE, persist=True)


async def fill(broker: RabbitBroker, jobs: int) -> None:
    for _ in range(jobs // WINDOW):
        await asyncio.gather(*(publish(broker) for _ in range(WINDOW)))


async def enqueue(case: Case) -> None:
    broker = await opened(case)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            await publish(broker)
    tell(rate_answer(watch))
    await broker.stop()


async def bulk(case: Case) -> None:
    broker = await opened(case)
    watch = Stopwatch(case)
    with watch.running():
        await fill(broker, case.jobs)
    tell(rate_answer(watch))
    await broker.stop()


async def drain(case: Case) -> None:
    broker = await opened(case)
    await fill(broker, case.jobs)
    done = 0
    finished = asyncio.Event()

    @broker.subscriber(QUEUE, ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def nothing(payload: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if done >= case.jobs:
            finished.set()

    watch = Stopwatch(case)
    with watch.running():
        await broker.start()
        await finished.wait()
    tell(rate_answer(watch))
    await broker.stop()


async def latency(case: Case) -> None:
    broker = await opened(case)
    picked = asyncio.Event()
    seconds, sent = [], 0.0

    @broker.subscriber(QUEUE)
    async def nothing(payload: dict[str, Any]) -> None:
        seconds.append(time.perf_counter() - sent)
        picked.set()

    await broker.start()
    for _ in range(case.jobs + 10):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await publish(broker)
        await picked.wait()
    tell(latency_answer(seconds[10:]))
    await broker.stop()
