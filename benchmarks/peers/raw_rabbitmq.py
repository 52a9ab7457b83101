"""The raw aiormq loop: a quorum queue, prefetch 1000, an acknowledgement for each message.

``best`` acknowledges runs of up to 500 messages in one frame; ``classic`` is the default on a
classic queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiormq
from aiormq import spec
from aiormq.abc import AbstractChannel, DeliveredMessage

from benchmarks.case import PAYLOAD, Case, Stopwatch, latency_answer, rate_answer, tell

QUEUE = "raw"
WINDOW = 500
BODY = json.dumps(PAYLOAD).encode()


async def connect(case: Case) -> AbstractChannel:
    channel: AbstractChannel = await (await aiormq.connect(case.url)).channel()
    kind = "classic" if case.setting == "classic" else "quorum"
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": kind})
    return channel


async def publish(channel: AbstractChannel) -> None:
    properties = spec.Basic.Properties(delivery_mode=2)
    await channel.basic_publish(BODY, routing_key=QUEUE, properties=properties, mandatory=True)


async def fill(channel: AbstractChannel, jobs: int) -> None:
    for _ in range(jobs // WINDOW):
        await asyncio.gather(*(publish(channel) for _ in range(WINDOW)))


async def enqueue(case: Case) -> None:
    channel = await connect(case)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            await publish(channel)
    tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    channel = await connect(case)
    watch = Stopwatch(case)
    with watch.running():
        await fill(channel, case.jobs)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    await fill(await connect(case), case.jobs)
    channel = await connect(case)
    finished = asyncio.Event()
    done = 0

    async def handler(payload: dict[str, Any]) -> int:
        return 1

    async def work(message: DeliveredMessage) -> None:
        nonlocal done
        await handler(json.loads(message.body))
        done += 1
        tag = message.delivery.delivery_tag  # type: ignore[union-attr]  # of a delivery
        assert tag is not None
        if case.setting != "best":
            await channel.basic_ack(tag, wait=False)
        elif done % WINDOW == 0:
            await channel.basic_ack(tag, multiple=True)
        if done >= case.jobs:
            finished.set()

    watch = Stopwatch(case)
    with watch.running():
        await channel.basic_qos(prefetch_count=1000)
        await channel.basic_consume(QUEUE, work)
        await finished.wait()
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    """Pick-up from just before the publish to the handler."""
    producer, consumer = await connect(case), await connect(case)
    picked = asyncio.Event()
    seconds: list[float] = []
    sent = 0.0

    async def work(message: DeliveredMessage) -> None:
        seconds.append(time.perf_counter() - sent)
        picked.set()
        tag = message.delivery.delivery_tag  # type: ignore[union-attr]  # of a delivery
        assert tag is not None
        await consumer.basic_ack(tag)

    await consumer.basic_qos(prefetch_count=10)
    await consumer.basic_consume(QUEUE, work)
    for _ in range(case.jobs + 10):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await publish(producer)
        await picked.wait()
    tell(latency_answer(seconds[10:]))
