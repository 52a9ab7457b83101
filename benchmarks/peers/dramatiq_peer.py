"""Dramatiq: eight threads, confirmed delivery, no results."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.case import PAYLOAD, Case, Stopwatch, rate_answer, tell

CASES = ("enqueue", "bulk", "drain")


async def run(case: Case) -> None:
    await asyncio.to_thread(run_here, case)


def run_here(case: Case) -> None:
    broker = RabbitmqBroker(url=case.url, confirm_delivery=True)
    done = 0
    lock = threading.Lock()
    finished = threading.Event()

    @dramatiq.actor(broker=broker, queue_name="dramatiq")
    def nothing(payload: dict[str, Any]) -> None:
        nonlocal done
        with lock:
            done += 1
        if done >= case.jobs:
            finished.set()

    watch = Stopwatch(case)
    if case.name == "drain":
        for _ in range(case.jobs):
            nothing.send(PAYLOAD)
        worker = dramatiq.Worker(broker, worker_threads=8)
        with watch.running():
            worker.start()
            finished.wait()
        worker.stop()
    else:
        with watch.running():
            for _ in range(case.jobs):
                nothing.send(PAYLOAD)
    tell(rate_answer(watch))
    broker.close()
