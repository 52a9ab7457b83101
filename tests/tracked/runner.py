"""A worker on RabbitMQ with a ledger, in a process of its own, that notes when it runs which job.

``python -m tests.tracked.runner FOLDER LEDGER BROKER PREFIX NAME``: works until SIGTERM, or death.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

from jobbus import JobBus, JobContext, Worker, load_settings
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.tracked import TrackedQueue
from tests.crash.history import History

JOB_TYPE: Final = "work"
LEASE: Final = timedelta(seconds=20)


def queue_at(ledger: str, broker: str, prefix: str) -> TrackedQueue:
    """Everything under the prefix on the broker; the jobs in a Postgres or in a SQLite file."""
    store = PostgresQueue(ledger) if "://" in ledger else SqliteQueue(ledger, synchronous="NORMAL")
    return TrackedQueue(RabbitMqQueue(broker, queue_prefix=prefix), store)


def bus_at(folder: Path, queue: TrackedQueue, history: History) -> JobBus:
    """With the one job type, which says when it begins and when it has ended."""
    bus = JobBus(load_settings({}, environ={}, directory=folder), queue=queue)

    @bus.job(name=JOB_TYPE, max_crashes=100)
    async def work(ctx: JobContext) -> None:
        history.note("started", ctx.job_id, ctx.attempt)
        await asyncio.sleep(0.02)
        history.note("ended", ctx.job_id, ctx.attempt)

    return bus


async def main() -> None:
    """Work."""
    folder, ledger, broker, prefix, name = Path(sys.argv[1]), *sys.argv[2:]
    history = History(folder, name)
    async with bus_at(folder, queue_at(ledger, broker, prefix), history) as bus:
        worker = Worker(bus, concurrency=4, lease=LEASE)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main())
