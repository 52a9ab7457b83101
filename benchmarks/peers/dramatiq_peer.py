"""Dramatiq: eight threads, no results; confirmed delivery on RabbitMQ."""

from __future__ import annotations

import asyncio
import threading
from importlib import import_module
from typing import Any

import dramatiq

from benchmarks.case import PAYLOAD, Case, Stopwatch, rate_answer, tell

CASES = ("enqueue", "bulk", "drain")


def prepare_backend(backend: str) -> None:
    """Raises ImportError where its broker for this backend is not installed."""
    import_module(f"dramatiq.brokers.{backend}")


def broker_at(url: str) -> dramatiq.Broker:
    if url.startswith("redis"):
        from dramatiq.brokers.redis import RedisBroker

        return RedisBroker(url=url)
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    return RabbitmqBroker(url=url, confirm_delivery=True)


async def run(case: Case) -> None:
    await asyncio.to_thread(run_here, case)


def run_here(case: Case) -> None:
    broker = broker_at(case.url)
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
