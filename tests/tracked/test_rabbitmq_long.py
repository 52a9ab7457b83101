"""A RabbitMQ that stops and starts, and workers that are killed, during 20,000 jobs: minutes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from jobbus import JobBus
from jobbus.backends.postgres import PostgresQueue
from jobbus.store import JobFilter
from jobbus.tracked.relay import SENDING, TRAVELLING
from tests.backends.rabbitmq_broker import new_prefix
from tests.crash.history import History, Reader, Record
from tests.flow.support import ROOT
from tests.services import RabbitMqServer
from tests.services.rabbitmq import RabbitMqNode
from tests.tracked.runner import JOB_TYPE, LEASE, bus_at, queue_at

LONG: Final = bool(os.environ.get("JOBBUS_TEST_LONG"))
JOBS: Final = 20_000
BETWEEN: Final = 1_000
"""Jobs that begin before each blow; more do while ``rabbitmqctl`` gets going."""
OUTAGES: Final = 4
SOON: Final = 15.0
"""Seconds after which every worker runs jobs again."""
LATE: Final = (SENDING + TRAVELLING + LEASE).total_seconds()
"""Seconds in which jobs come again that a dead worker had in hand, in whatever state."""
GLANCE: Final = 0.05

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not LONG, reason="takes minutes: set JOBBUS_TEST_LONG=1"),
]


@dataclass
class Fleet:
    """Two workers, each a process, one of which is killed now and then."""

    folder: Path
    words: Sequence[str]
    """Where ledger and broker are, as the program takes it."""
    alive: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    deaths: dict[str, float] = field(default_factory=dict)
    """When each of those that were killed was."""

    def __post_init__(self) -> None:
        self._reader = Reader(self.folder)

    async def start(self) -> None:
        name = f"worker-{len(self.alive) + len(self.deaths)}"
        command = (sys.executable, "-m", "tests.tracked.runner", str(self.folder), *self.words)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.alive[name] = await asyncio.create_subprocess_exec(
                *command, name, cwd=ROOT, stdout=log, stderr=log
            )

    async def replace_one(self) -> None:
        """Kill the oldest as it stands, and start another."""
        name, process = next(iter(self.alive.items()))
        assert process.returncode is None, self.logs()
        process.kill()
        await process.wait()
        del self.alive[name]
        self.deaths[name] = time.monotonic()
        await self.start()

    def starts(self) -> list[Record]:
        return [record for record in self._reader.read() if record.event == "started"]

    async def until(self, reached: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not reached():  # noqa: ASYNC110 - other processes do it
                    await asyncio.sleep(GLANCE)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {seconds} s\n{self.logs()}") from None

    async def more_began(self) -> None:
        wanted = len(self.starts()) + BETWEEN
        await self.until(lambda: len(self.starts()) >= wanted, 120, f"{BETWEEN} more jobs")

    async def all_back(self, since: float) -> float:
        """Once each has begun a job since that moment: how many seconds after it the last did."""

        def first_ones() -> dict[str, float]:
            found: dict[str, float] = {}
            for record in self.starts():
                if record.monotonic > since:
                    found.setdefault(record.process, record.monotonic)
            return found

        names = set(self.alive)
        await self.until(lambda: names <= first_ones().keys(), SOON, f"jobs in each of {names}")
        return max(first_ones()[name] for name in names) - since

    async def stop(self) -> list[int]:
        """In good order; their exit codes."""
        for process in self.alive.values():
            process.send_signal(signal.SIGTERM)
        return [await asyncio.wait_for(process.wait(), 60) for process in self.alive.values()]

    def clear_away(self) -> None:
        for process in self.alive.values():
            if process.returncode is None:
                process.kill()

    def logs(self) -> str:
        logs = sorted(self.folder.glob("worker-*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)


@pytest.fixture(params=["sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    url: str = request.getfixturevalue("postgres_url")
    await PostgresQueue(url).migrate()
    return url


@asynccontextmanager
async def two_workers(folder: Path, *words: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(folder, words)
    try:
        await fleet.start()
        await fleet.start()
        yield fleet
    finally:
        fleet.clear_away()


async def outage(node: RabbitMqNode, fleet: Fleet, *, deadly: bool) -> float:
    """The broker stops and starts, a worker dying meanwhile or not; seconds until all are back."""
    await asyncio.to_thread(node.control, "stop_app")
    if deadly:
        await fleet.replace_one()
    await asyncio.to_thread(node.control, "start_app")
    return await fleet.all_back(time.monotonic())


async def completed_all(bus: JobBus, fleet: Fleet) -> float:
    """Once every outcome is in the ledger: how many seconds that took."""
    began = time.monotonic()
    while (done := (await bus.stats())["completed"]) < JOBS:
        assert time.monotonic() - began < LATE, f"{JOBS - done} jobs are lost\n{fleet.logs()}"
        await asyncio.sleep(10 * GLANCE)
    return time.monotonic() - began


def runs_by_job(fleet: Fleet) -> dict[str, list[Record]]:
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(fleet.starts(), key=lambda record: record.monotonic):
        runs[record.job].append(record)
    return runs


def doubles(fleet: Fleet) -> list[tuple[Record, Record]]:
    """Runs of one job of which the later began while the earlier one's worker lived, or behind it.

    Living workers keep their leases: only a death excuses another run.
    """
    return [
        (earlier, later)
        for runs in runs_by_job(fleet).values()
        for earlier, later in pairwise(runs)
        if later.monotonic < fleet.deaths.get(earlier.process, float("inf"))
    ]


async def test_neither_outages_nor_deaths_lose_a_job_or_run_one_twice_and_work_goes_on_soon(
    owned_rabbitmq: RabbitMqServer, ledger: str, tmp_path: Path
) -> None:
    """RM-10 and D-16, at length: ``stop_app`` and ``start_app``, and ``kill -9``."""
    node = owned_rabbitmq.own()
    await asyncio.to_thread(node.start)
    words = (ledger, owned_rabbitmq.url, new_prefix())
    bus = bus_at(tmp_path, queue_at(*words), History(tmp_path, "test"))
    async with bus:
        messages = [await bus.message_for(JOB_TYPE, {}) for _ in range(JOBS)]
        await bus.enqueue_many(messages)
        async with two_workers(tmp_path, *words) as fleet:
            back = []
            for number in range(OUTAGES):
                await fleet.more_began()
                back.append(await outage(node, fleet, deadly=number % 2 == 1))
                await fleet.more_began()
                await fleet.replace_one()
            rest = await completed_all(bus, fleet)
            codes = await fleet.stop()
        crashes = {job.id: job.crashes async for job in bus.find_all(JobFilter())}
    found, runs = doubles(fleet), runs_by_job(fleet)
    told = {
        "seconds until every worker was back": [round(one, 1) for one in back],
        "deaths": len(fleet.deaths),
        "jobs that ran again after a death": sum(len(each) > 1 for each in runs.values()),
        "jobs that ran twice under a valid lease": len(found),
        "seconds from the last death to the last outcome": round(rest, 1),
    }
    print(json.dumps(told))
    assert not found, found[:5]
    assert runs.keys() == crashes.keys() == {message.job_id for message in messages}
    assert all(len(each) <= 1 + crashes[job_id] for job_id, each in runs.items())
    assert codes == [0, 0], fleet.logs()
