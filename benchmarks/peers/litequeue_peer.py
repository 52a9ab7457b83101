"""litequeue, a table with pop and done: no worker of its own, so the loop around it is ours."""

from __future__ import annotations

import json
import time

from litequeue import LiteQueue

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

BODY = json.dumps(PAYLOAD)


def opened(case: Case) -> LiteQueue:
    queue = LiteQueue(case.url.removeprefix("sqlite:///"))
    queue.conn.execute("PRAGMA synchronous = FULL")
    return queue


async def enqueue(case: Case) -> None:
    queue = opened(case)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            queue.put(BODY)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    queue = opened(case)
    for _ in range(case.jobs):
        queue.put(BODY)
    watch = Stopwatch(case)
    with watch.running():
        while (task := queue.pop()) is not None:
            json.loads(task.data)
            queue.done(task.message_id)
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    producer, worker = opened(case), opened(case)
    seconds = []
    for _ in range(case.jobs + WARM_UP):
        sent = time.perf_counter()
        producer.put(BODY)
        while (task := worker.pop()) is None:
            time.sleep(0.002)  # noqa: ASYNC251  # a bare loop: nothing else runs here
        seconds.append(time.perf_counter() - sent)
        worker.done(task.message_id)
    tell(latency_answer(seconds))
