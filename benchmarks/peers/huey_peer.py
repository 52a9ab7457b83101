"""Huey on SQLite or Redis, one worker thread; it takes a job off the queue before running it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from huey import Huey, RedisHuey, SqliteHuey

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell


def application(case: Case) -> Huey:
    if case.url.startswith("redis"):
        return RedisHuey(url=case.url, results=True)
    path = case.url.removeprefix("sqlite:///")
    return SqliteHuey(filename=path, fsync=True, results=True)


async def enqueue(case: Case) -> None:
    huey = application(case)
    nothing = huey.task(name="nothing")(_nothing)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            nothing(PAYLOAD)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    huey = application(case)
    left = case.jobs
    finished = threading.Event()

    @huey.task()
    def nothing(payload: dict[str, Any]) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            finished.set()
        return 1

    for _ in range(case.jobs):
        nothing(PAYLOAD)
    watch = Stopwatch(case)
    consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.01)
    with watch.running():
        consumer.start()
        await asyncio.to_thread(finished.wait)
        consumer.stop(graceful=True)
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    huey = application(case)
    seconds: list[float] = []
    picked = threading.Event()
    sent = 0.0

    @huey.task()
    def note(payload: dict[str, Any]) -> int:
        seconds.append(time.perf_counter() - sent)
        picked.set()
        return 1

    consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.01)
    consumer.start()
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        note(PAYLOAD)
        await asyncio.to_thread(picked.wait)
    consumer.stop(graceful=True)
    tell(latency_answer(seconds))


def _nothing(payload: dict[str, Any]) -> int:
    return 1
