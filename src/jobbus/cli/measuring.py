"""Measures a backend in a place of its own, which is taken away at the end."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import BackendError

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.handlers import JobType
    from jobbus.settings import Settings

BULK: Final = 1_000
_ONE_BY_ONE_SECONDS: Final = 5.0
_PICK_UP_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    jobs: int
    samples: int
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out. Rates are jobs a second; pick-ups are seconds, sorted."""

    enqueue_rate: float
    bulk_rate: float
    drain_rate: float
    pick_ups: tuple[float, ...]

    def pick_up(self, share: float) -> float:
        """The time within which this share of the jobs was picked up, in seconds."""
        return self.pick_ups[min(int(len(self.pick_ups) * share), len(self.pick_ups) - 1)]


@asynccontextmanager
async def temporary_bus(settings: Settings) -> AsyncIterator[JobBus]:
    """A bus on the backend of the settings, in a file, schema or queue of its own."""
    from jobbus.bus import JobBus

    with _temporary_settings(settings) as chosen:
        bus = JobBus(chosen)
        queue: Any = bus.queue
        if settings.provider == "postgres":
            await queue.migrate()
        async with bus:
            try:
                yield bus
            finally:
                if settings.provider == "redis":
                    await queue.drop()


@contextmanager
def _temporary_settings(settings: Settings) -> Iterator[Settings]:
    match settings.provider:
        case "sqlite":
            # Beside the real file, so that it is that disk which is measured.
            beside = Path(settings.sqlite.path).resolve().parent
            folder = tempfile.mkdtemp(prefix=".jobbus-bench-", dir=_nearest_folder(beside))
            try:
                place = replace(settings.sqlite, path=os.path.join(folder, "bench.db"))
                yield settings.model_copy(update={"sqlite": place})
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        case "postgres":
            with _temporary_schema(settings) as schema:
                chosen = replace(settings.postgres, schema=schema)
                yield settings.model_copy(update={"postgres": chosen})
        case "redis":
            prefix = f"jobbus-bench-{secrets.token_hex(4)}"
            options = {**settings.provider_options("redis"), "prefix": prefix}
            others = {**settings.backend_options, "redis": options}
            yield settings.model_copy(update={"backend_options": others})
        case _:
            yield settings


def _nearest_folder(folder: Path) -> Path:
    return folder if folder.is_dir() else _nearest_folder(folder.parent)


@contextmanager
def _temporary_schema(settings: Settings) -> Iterator[str]:
    import psycopg
    from psycopg import sql

    from jobbus.settings import create_queue

    queue: Any = create_queue(settings)
    name = f"jobbus_bench_{secrets.token_hex(4)}"
    try:
        with queue.transaction_sync() as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise BackendError(
            "measuring needs a schema of its own in the database, and this user may not make one: "
            "GRANT CREATE ON DATABASE, or name another database with --backend"
        ) from error
    try:
        yield name
    finally:
        with queue.transaction_sync() as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


async def measure(bus: JobBus, size: Size, told: Callable[[str], None]) -> Measured:
    """All measurements, one after the other. Jobs are empty: what is measured is jobbus."""
    queue = f"jobbus-bench-{secrets.token_hex(4)}"
    started: asyncio.Queue[float] = asyncio.Queue()

    async def noop(number: int) -> None:
        started.put_nowait(time.perf_counter())

    job_type = bus.job(name="jobbus.bench", queue=queue)(noop)
    told("enqueueing one by one")
    enqueue_rate, number = await _one_by_one(job_type, min(size.jobs, 1_000))
    told("enqueueing in bulk")
    bulk_rate = await _in_bulk(bus, job_type, size.jobs)
    told("draining")
    drain_rate = await _drain(bus, queue, number + size.jobs, size.concurrency)
    told("picking up")
    while not started.empty():
        started.get_nowait()
    pick_ups = await _pick_up(bus, job_type, queue, started, size)
    return Measured(enqueue_rate, bulk_rate, drain_rate, tuple(sorted(pick_ups)))


async def _one_by_one(job_type: JobType[..., Any], jobs: int) -> tuple[float, int]:
    began = time.perf_counter()
    number = 0
    while number < jobs and time.perf_counter() - began < _ONE_BY_ONE_SECONDS:
        await job_type.enqueue(number=number)
        number += 1
    return number / (time.perf_counter() - began), number


async def _in_bulk(bus: JobBus, job_type: JobType[..., Any], jobs: int) -> float:
    messages = [job_type.message(number=number) for number in range(jobs)]
    began = time.perf_counter()
    for start in range(0, jobs, BULK):
        await bus.enqueue_many(messages[start : start + BULK])
    return jobs / (time.perf_counter() - began)


async def _drain(bus: JobBus, queue: str, jobs: int, concurrency: int | None) -> float:
    from jobbus.worker import Worker

    ended: list[float] = []
    worker = Worker(bus, queues=[queue], concurrency=concurrency, burst=True)
    worker.observers.append(lambda report: ended.append(time.perf_counter()))
    began = time.perf_counter()
    await worker.run()
    # When the last one was done, not when the worker had made sure that there is no other.
    return jobs / ((ended[-1] if ended else time.perf_counter()) - began)


async def _pick_up(
    bus: JobBus,
    job_type: JobType[..., Any],
    queue: str,
    started: asyncio.Queue[float],
    size: Size,
) -> list[float]:
    """From the call of enqueue until the handler runs, one job after the other, worker idle."""
    from jobbus.worker import Worker

    worker = Worker(bus, queues=[queue], concurrency=size.concurrency)
    working = asyncio.create_task(worker.run())
    times: list[float] = []
    deadline = time.perf_counter() + _PICK_UP_SECONDS
    try:
        while len(times) < size.samples and time.perf_counter() < deadline:
            began = time.perf_counter()
            await job_type.enqueue(number=len(times))
            times.append(await _next(started, working) - began)
    finally:
        worker.stop()
        await working
    return times


async def _next(started: asyncio.Queue[float], working: asyncio.Task[None]) -> float:
    """When the next handler began; or whatever ended the worker."""
    waiting = asyncio.ensure_future(started.get())
    await asyncio.wait({waiting, working}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        working.result()
        raise BackendError("the worker stopped before it had picked up a job")
    return waiting.result()
