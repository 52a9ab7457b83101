"""Celery: the solo pool, prefetch 100, late acknowledgements, confirmed publishing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from celery import Celery
from celery.worker import state

from benchmarks.case import PAYLOAD, Case, Stopwatch, rate_answer, tell

CASES = ("enqueue", "bulk", "drain")


async def run(case: Case) -> None:
    await asyncio.to_thread(run_here, case)


def run_here(case: Case) -> None:
    app = Celery("bench", broker=case.url)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=100,
        broker_transport_options={"confirm_publish": True},
        worker_hijack_root_logger=False,
    )
    done = 0
    watch = Stopwatch(case)
    started, ended = threading.Event(), threading.Event()

    @app.task(name="nothing")
    def nothing(payload: dict[str, Any]) -> None:
        nonlocal done
        if done == 0:
            started.set()
        done += 1
        if done >= case.jobs:
            ended.set()
            state.should_stop = 0

    def time_it() -> None:
        started.wait()  # its start takes seconds, and is not the subject
        with watch.running():
            ended.wait()

    def fill() -> None:
        for _ in range(case.jobs):
            nothing.delay(PAYLOAD)

    if case.name == "drain":
        fill()
        worker = app.WorkController(
            pool="solo", concurrency=1, without_gossip=True, without_mingle=True,
            without_heartbeat=True, loglevel="ERROR",
        )  # fmt: skip
        timing = threading.Thread(target=time_it)
        timing.start()
        worker.start()
        timing.join()
    else:
        with watch.running():
            fill()
    tell(rate_answer(watch))
