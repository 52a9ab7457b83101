"""jobbus as a user gets it: every guarantee on, the default worker, a no-op async handler.

``best`` has more slots; with ``keys`` each job has an idempotency key of its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from benchmarks.case import (
    PAYLOAD,
    WARM_UP,
    Case,
    Stopwatch,
    latency_answer,
    rate_answer,
    resident_mb,
    tell,
)
from benchmarks.sqs import counting_requests
from jobbus import JobBus, Worker
from jobbus.backends.postgres import PostgresQueue
from jobbus.job import UNFINISHED
from jobbus.job_type import JobType
from jobbus.message import Completion, Delivery
from jobbus.store import JobFilter
from jobbus.tracked import TrackedQueue
from jobbus.worker.process import tune_collector

BEST_CONCURRENCY: Final = 50
PROCESSES: Final = 4
BATCH: Final = 1000
STEP: Final = 200
FINISHED: Final = """
INSERT INTO background_jobs (
    id, queue, job_type, state, initial_state, priority, attempt, max_attempts, max_crashes,
    run_at, started_at, finished_at, payload, result)
SELECT gen_random_uuid(), 'default', 'nothing', 'completed', 'queued', 5, 1, 3, 3,
    now(), now(), now(), convert_to(%s, 'UTF8'), '1'
FROM generate_series(1, 1000000)
"""

bus = JobBus()
picked_at: list[float] = []
picked = asyncio.Event()


@bus.job
async def nothing(payload: dict[str, Any]) -> int:
    return 1


@bus.job
async def note(payload: dict[str, Any]) -> int:
    picked_at.append(time.perf_counter())
    picked.set()
    return 1


async def enqueue(case: Case) -> None:
    await opened()
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            await asked(case).enqueue(PAYLOAD)
    tell(rate_answer(watch))
    await bus.close()


async def together(case: Case) -> None:
    """One by one from twenty tasks at once, as a service with many requests enqueues."""
    await opened()

    async def some() -> None:
        for _ in range(case.jobs // 20):
            await asked(case).enqueue(PAYLOAD)

    watch = Stopwatch(case)
    with watch.running():
        await asyncio.gather(*(some() for _ in range(20)))
    tell(rate_answer(watch))
    await bus.close()


async def bulk(case: Case) -> None:
    await opened()
    watch = Stopwatch(case)
    with watch.running():
        await fill(case)
    tell(rate_answer(watch))
    await bus.close()


async def drain(case: Case) -> None:
    await opened()
    await fill(case)
    await _drain(case)


async def finished(case: Case) -> None:
    """The drain beside a million rows of jobs that have ended."""
    import psycopg

    await opened()
    with psycopg.connect(case.url, autocommit=True) as connection:
        connection.execute(FINISHED, [json.dumps(PAYLOAD)])
        connection.execute("VACUUM ANALYZE background_jobs")
    await fill(case)
    await _drain(case)


async def one_process(case: Case) -> None:
    await _processes(case, 1)


async def four_processes(case: Case) -> None:
    await _processes(case, PROCESSES)


async def latency(case: Case) -> None:
    await opened()
    worker = Worker(bus)
    working = asyncio.create_task(worker.run())
    seconds = []
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await asked(case, note).enqueue(PAYLOAD)
        async with asyncio.timeout(10):
            await picked.wait()
        seconds.append(picked_at[-1] - sent)
    worker.stop()
    await working
    tell(latency_answer(seconds))
    await bus.close()


async def across(case: Case) -> None:
    """Pick-up by a worker in another process than the producer's."""
    await opened()
    seen, told = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("spawn").Process(target=_note_elsewhere, args=(told,))
    worker.start()
    seconds = []
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        sent = time.perf_counter()
        await note.enqueue(PAYLOAD)
        # The same clock for all processes of a machine: CLOCK_MONOTONIC.
        seconds.append(await asyncio.to_thread(seen.recv) - sent)
    worker.terminate()
    worker.join(30)
    tell(latency_answer(seconds))
    await bus.close()


async def steps(case: Case) -> None:
    """What enqueueing, claiming and completing cost by themselves, without a worker."""
    await opened()
    enqueueing, claiming, completing = (Stopwatch(case) for _ in range(3))
    with enqueueing.running():
        await fill(case)
    held: list[Sequence[Delivery]] = []
    with claiming.running():
        while found := await bus.queue.receive(
            "default", limit=STEP, wait=timedelta(0), lease=timedelta(minutes=10)
        ):
            held.append(found)
    with completing.running():
        for some in held:
            await bus.queue.complete([Completion(delivery=one, result=b"1") for one in some])
    parts = {"enqueue": enqueueing, "claim": claiming, "complete": completing}
    tell({
        "cpu_us_per_job": sum(watch.cpu for watch in parts.values()) / case.jobs * 1e6,
        **{
            f"{part}_{name}": value
            for part, watch in parts.items()
            for name, value in rate_answer(watch).items()
            if name.endswith("us_per_job")
        },
    })  # fmt: skip
    await bus.close()


async def rest(case: Case) -> None:
    """The memory of a worker that has nothing to do."""
    await opened()
    tune_collector()
    worker = Worker(bus)
    working = asyncio.create_task(worker.run())
    await asyncio.sleep(2)
    tell({"rss_mb": resident_mb()})
    worker.stop()
    await working
    await bus.close()


async def opened() -> None:
    queue: Any = bus.queue
    store = queue.ledger if isinstance(queue, TrackedQueue) else queue
    if isinstance(store, PostgresQueue):
        await store.migrate()
    await bus.open()
    if isinstance(queue, TrackedQueue):
        # Connects the broker, and makes what it needs there: elsewhere that is not measured either.
        await queue.receive("default", limit=1, wait=timedelta(0), lease=timedelta(minutes=1))


def asked(
    case: Case, job: JobType[[dict[str, Any]], int] = nothing
) -> JobType[[dict[str, Any]], int]:
    """The job as this case enqueues it."""
    return job.options(idempotency_key=uuid4().hex) if case.setting == "keys" else job


async def fill(case: Case) -> None:
    for _ in range(case.jobs // BATCH):
        await bus.enqueue_many([asked(case).message(PAYLOAD) for _ in range(BATCH)])


async def _drain(case: Case) -> None:
    tune_collector()  # as `jobbus worker` does
    done = 0
    ended = asyncio.Event()

    def count(report: object) -> None:
        nonlocal done
        done += 1
        if done >= case.jobs:
            ended.set()

    worker = Worker(bus, concurrency=BEST_CONCURRENCY if case.setting == "best" else None)
    worker.observers.append(count)
    requests = counting_requests() if bus.settings.provider == "aws_sqs" else None
    watch = Stopwatch(case)
    with watch.running():
        working = asyncio.create_task(worker.run())
        await ended.wait()
        worker.stop()
        await working
    counted = {} if requests is None else {"requests_per_job": requests() / case.jobs}
    tell({**rate_answer(watch), **counted})
    await bus.close()


async def _processes(case: Case, number: int) -> None:
    await opened()
    await fill(case)
    spawn = multiprocessing.get_context("spawn")
    begin = spawn.Event()
    workers = [spawn.Process(target=_work_elsewhere, args=(begin,)) for _ in range(number)]
    for worker in workers:
        worker.start()
    await asyncio.sleep(3)  # until they have imported everything: that is not measured
    watch = Stopwatch(case)
    with watch.running():
        begin.set()
        while await bus.store.count(JobFilter(states=UNFINISHED), cap=1):  # noqa: ASYNC110  # others work
            await asyncio.sleep(0.01)
    tell(rate_answer(watch))
    for worker in workers:
        worker.terminate()
        worker.join(30)
    await bus.close()


def _work_elsewhere(begin: Any) -> None:
    async def work() -> None:
        await bus.open()
        tune_collector()
        await asyncio.to_thread(begin.wait)
        await Worker(bus).run()

    asyncio.run(work())


def _note_elsewhere(told: Any) -> None:
    async def work() -> None:
        working = asyncio.create_task(Worker(bus).run())
        while True:
            await picked.wait()
            picked.clear()
            told.send(picked_at[-1])
            if working.done():
                return

    asyncio.run(work())
