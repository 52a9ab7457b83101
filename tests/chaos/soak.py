"""``make soak``: half the peak load for a long time, and what of memory, files and tables grows."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg

from jobbus import JobBus, Worker, load_settings
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from tests.chaos.plan import POSTGRES, SQLITE
from tests.services.postgres import fresh_database, own_postgres

WORKERS: Final = 2
PEAK_SECONDS: Final = 10.0
KEEP: Final = timedelta(seconds=30)
"""How long ended jobs are kept, so that sizes can level off within the run."""
PRUNE: Final = 2.0
SAMPLE: Final = 2.0
TICK: Final = 0.1
BATCH: Final = 200
WARM_UP: Final = 0.3
"""Part of the run that is not judged."""
MEMORY_GROWTH: Final = 0.10
SIZE_GROWTH: Final = 0.25
SPARE_FILES: Final = 3
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Everything measured at one moment."""

    done: int
    memory: int
    """Bytes resident, of all workers together."""
    files: int
    """Open descriptors, of all workers together."""
    threads: int
    connections: int
    """To the server; 0 where there is none."""
    tables: int
    """Bytes of tables, indexes and the write-ahead log of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one measure went."""

    name: str
    first: float
    last: float
    good: bool

    def __str__(self) -> str:
        change = (self.last / self.first - 1) * 100 if self.first else 0.0
        word = "level" if self.good else "GROWS"
        return (
            f"  {self.name:<14}{self.first:>14,.0f} -> {self.last:>14,.0f} {change:+6.1f} %  {word}"
        )


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """Hold the end of a run against its beginning, once it had warmed up."""
    settled = samples[int(len(samples) * WARM_UP) :]
    part = max(len(settled) // 4, 1)
    first, last = settled[:part], settled[-part:]

    def held(
        name: str, read: Callable[[Sample], int], allowed: Callable[[float], float]
    ) -> Verdict:
        before = statistics.median(read(s) for s in first)
        after = statistics.median(read(s) for s in last)
        return Verdict(name=name, first=before, last=after, good=after <= allowed(before))

    return [
        held("memory", lambda s: s.memory, lambda b: b * (1 + MEMORY_GROWTH)),
        held("descriptors", lambda s: s.files, lambda b: b + SPARE_FILES),
        held("threads", lambda s: s.threads, lambda b: b + SPARE_FILES),
        held("connections", lambda s: s.connections, lambda b: b + SPARE_FILES),
        held("tables", lambda s: s.tables, lambda b: b * (1 + SIZE_GROWTH)),
    ]


class Meter:
    """Measures workers from outside."""

    def __init__(self, address: str, pids: Sequence[int]) -> None:
        self._address = address
        self._pids = pids

    def sample(self, done: int) -> Sample:
        folders = [Path(f"/proc/{pid}") for pid in self._pids]
        connections, tables = self._database()
        return Sample(
            done=done,
            memory=sum(int((f / "statm").read_text().split()[1]) * PAGE for f in folders),
            files=sum(len(list((f / "fd").iterdir())) for f in folders),
            threads=sum(len(list((f / "task").iterdir())) for f in folders),
            connections=connections,
            tables=tables,
        )

    def _database(self) -> tuple[int, int]:
        if not self._address.startswith("postgresql://"):
            files = Path(self._address).parent.glob(Path(self._address).name + "*")
            return 0, sum(file.stat().st_size for file in files)
        with psycopg.connect(self._address) as session:
            row = session.execute(
                "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),"
                " (SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'"
                "  AND relname LIKE 'background_job%')"
            ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


def bus_at(address: str) -> JobBus:
    """A bus with the one job type of a soak."""
    settings = load_settings(
        {"backend": "memory"}, environ={}, directory=Path(tempfile.gettempdir()) / "nowhere"
    )
    postgres = address.startswith("postgresql://")
    queue = PostgresQueue(address) if postgres else SqliteQueue(address, synchronous="NORMAL")
    bus = JobBus(settings, queue=queue)

    @bus.job
    async def short(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    return bus


async def work(address: str) -> None:
    async with bus_at(address) as bus:
        worker = Worker(bus, concurrency=10)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


class Soak:
    """One run."""

    def __init__(self, bus: JobBus, meter: Meter) -> None:
        self._bus = bus
        self._meter = meter
        self._enqueued = 0

    async def peak(self) -> float:
        """Jobs per second when there is always something to do."""
        await self._enqueue(BATCH)
        await self.drained()  # now the workers are there
        began, before, backlog = time.monotonic(), self._enqueued, 20 * BATCH
        while time.monotonic() - began < PEAK_SECONDS:
            if await self._unfinished() < backlog:
                await self._enqueue(BATCH)
            else:
                await asyncio.sleep(TICK / 10)
        done = self._enqueued - before - await self._unfinished()
        return done / (time.monotonic() - began)

    async def hold(self, rate: float, seconds: float) -> list[Sample]:
        """That many jobs a second, for so long."""
        samples: list[Sample] = []
        began, before = time.monotonic(), self._enqueued
        next_sample = next_prune = began
        while (now := time.monotonic()) - began < seconds:
            owed = int((now - began) * rate) - (self._enqueued - before)
            if owed > 0:
                await self._enqueue(min(owed, 5 * BATCH))
            if now >= next_prune:
                next_prune = now + PRUNE
                await self._prune()
            if now >= next_sample:
                next_sample = now + SAMPLE
                done = self._enqueued - await self._unfinished()
                samples.append(await asyncio.to_thread(self._meter.sample, done))
            await asyncio.sleep(TICK)
        return samples

    async def drained(self) -> None:
        async with asyncio.timeout(60):
            while await self._unfinished():  # noqa: ASYNC110 - the workers tell the database only
                await asyncio.sleep(TICK)

    async def _enqueue(self, number: int) -> None:
        short = self._bus.handlers.get("short")
        assert short is not None
        await self._bus.enqueue_many([short.message(n) for n in range(number)])
        self._enqueued += number

    async def _prune(self) -> None:
        while await self._bus.store.prune(finished_before=datetime.now(UTC) - KEEP) == 1000:
            pass

    async def _unfinished(self) -> int:
        depth = await self._bus.queue.get_queue_depth("default")
        return depth.ready + (depth.leased or 0) + (depth.delayed or 0)


@contextmanager
def workers(address: str) -> Iterator[Sequence[int]]:
    """Some worker processes; their ids."""
    command = [sys.executable, "-m", "tests.chaos.soak", "--work", address]
    processes = [subprocess.Popen(command) for _ in range(WORKERS)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=60)


@contextmanager
def database(backend: str) -> Iterator[str]:
    """A new one of its own."""
    with ExitStack() as stack:
        if backend == SQLITE:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jobbus-soak-"))
            yield str(Path(folder) / "jobs.db")
            return
        server = stack.enter_context(own_postgres({"fsync": "on", "autovacuum_naptime": "5s"}))
        yield stack.enter_context(fresh_database(server))


async def soak(backend: str, address: str, seconds: float) -> bool:
    """Run, report, and say whether nothing grows."""
    bus = bus_at(address)
    if isinstance(bus.queue, PostgresQueue):
        await bus.queue.migrate()
    async with bus:
        with workers(address) as pids:
            run = Soak(bus, Meter(address, pids))
            peak = await run.peak()
            await run.drained()
            samples = await run.hold(peak / 2, seconds)
            await run.drained()
    verdicts = judge(samples)
    done = samples[-1].done - samples[0].done
    print(f"soak on {backend}: peak {peak:.0f} jobs/s, then {seconds:.0f} s at half of it")
    print(
        f"  {done} jobs by {WORKERS} workers, {len(samples)} samples; median of the first quarter"
    )
    print(f"  after the first {WARM_UP:.0%} of the run, and of the last:")
    print("\n".join(str(one) for one in verdicts))
    return all(one.good for one in verdicts)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="default: 300")
    parser.add_argument("--backend", choices=[POSTGRES, SQLITE], default=POSTGRES)
    parser.add_argument("--work", metavar="ADDRESS", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.work:
        asyncio.run(work(asked.work))
        return 0
    with database(asked.backend) as address:
        good = asyncio.run(soak(asked.backend, address, asked.seconds))
    print("verdict: " + ("nothing grows" if good else "something GROWS"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
