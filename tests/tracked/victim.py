"""A worker on a tracked queue, in a process of its own, that may kill itself at a point.

``python -m tests.tracked.victim FOLDER LEDGER QUEUES [POINT]``: without a point it works until
nothing is left. Each run of a job is a line in ``FOLDER/effects``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from jobbus import JobBus, JobContext, Worker, load_settings
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.message import Completion, Delivery, Message
from jobbus.testing.broker import BareBroker
from jobbus.tracked import TrackedQueue
from jobbus.tracked.bundles import Share

JOB_TYPE: Final = "work"
_LEASE: Final = timedelta(seconds=20)


def die_at(label: str) -> None:
    """Be killed here, if this is the point."""
    if sys.argv[4:] == [label]:
        os.kill(os.getpid(), signal.SIGKILL)


class MortalBroker(BareBroker):
    """Dies with its process around sending and acknowledging."""

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        die_at("handed over, not sent")
        ids = await super().enqueue(messages, connection=connection)
        die_at("sent, not marked")
        return ids

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        die_at("recorded, not acknowledged")
        lost = await super().complete(done, connection=connection)
        die_at("acknowledged")
        return lost


class MortalQueue(TrackedQueue):
    """Dies with its process around the start gate and the record."""

    async def _start(self, shares: list[Share], *rest: Any) -> list[Delivery]:
        die_at("received, not started")
        started = await super()._start(shares, *rest)
        die_at("started, not run")
        return started

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        die_at("run, not recorded")
        return await super().complete(done, connection=connection)


def queue_in(folder: Path, ledger: str, *, mortal: bool) -> TrackedQueue:
    """The broker in ``folder``, and the ledger at an address; for this process or the test's."""
    broker = SqliteQueue(folder / "broker.db", synchronous="NORMAL")
    store = PostgresQueue(ledger) if "://" in ledger else SqliteQueue(ledger, synchronous="NORMAL")
    if mortal:
        return MortalQueue(MortalBroker(broker), store)
    return TrackedQueue(BareBroker(broker), store)


async def main() -> None:
    """Work."""
    folder, ledger, queues = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
    bus = JobBus(
        load_settings({}, environ={}, directory=folder), queue=queue_in(folder, ledger, mortal=True)
    )

    @bus.job(name=JOB_TYPE)
    async def work(ctx: JobContext) -> None:
        with (folder / "effects").open("a") as effects:
            effects.write(f"{ctx.job_id} {ctx.attempt}\n")

    async with bus:
        worker = Worker(bus, queues=queues, concurrency=2, lease=_LEASE, burst=len(sys.argv) < 5)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
