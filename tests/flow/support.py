"""Where flow tests live: one store, any number of buses on it, workers, other processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from jobbus import Job, JobBus, JobState, Middleware, RetryPolicy, Worker, load_settings
from jobbus.backends.sql.program import Call, Program
from jobbus.job import EventType
from jobbus.queue import BackgroundJobQueue
from jobbus.worker.worker import Phase
from tests.tracked.ledgers import EVERY_LEDGER

T = TypeVar("T")
SHARED: Final = ("sqlite", pytest.param("postgres", marks=pytest.mark.services))
"""The backends that several processes can use."""
ALL: Final = ("memory", *SHARED, "tracked")
READY: Final = (JobState.CREATED, JobState.QUEUED)
"""What waits for a worker; with a broker in between, first for a relay."""
PATIENCE: Final = 60.0 if EVERY_LEDGER else 15.0
"""Seconds to wait for what must come; never waited for in full on success.

1,500 jobs through a broker and a ledger take a busy machine 20.
"""
LOOK: Final = 0.005
"""Seconds between two looks."""
PATIENT_LOOKS: Final = int(PATIENCE / LOOK)
"""After so many looks a sync handler gives up: a thread that never ends would hold the test run."""
SECOND: Final = timedelta(seconds=1)
AT_ONCE: Final = RetryPolicy(base=timedelta(0), jitter=False)
"""Tries again without a pause."""
ROOT: Final = Path(__file__).parents[2]
NOWHERE: Final = Path(__file__).parent
"""A folder without settings in it."""
PLAIN: Final = load_settings({}, environ={}, directory=NOWHERE)
"""The defaults, whatever the surroundings say."""


@dataclass(frozen=True)
class Home:
    """One store. Every bus on it has connections of its own."""

    kind: str
    new_queue: Callable[[], BackgroundJobQueue]
    address: str | None
    """For other processes; None where they cannot come in."""

    def bus(self, middleware: Sequence[Middleware] = (), **settings: object) -> JobBus:
        """A bus, not open yet, with the defaults except for these settings."""
        chosen = load_settings(settings, environ={}, directory=NOWHERE) if settings else PLAIN
        return JobBus(chosen, queue=self.new_queue(), middleware=middleware)


async def until(probe: Callable[[], T], what: str = "the condition") -> T:
    """What ``probe`` says once that is truthy."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                if answer := probe():
                    return answer
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {PATIENCE} s") from None


async def eventually(probe: Callable[[], Awaitable[T]], what: str = "the condition") -> T:
    """What ``probe`` answers once that is truthy."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                if answer := await probe():
                    return answer
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {PATIENCE} s") from None


async def in_state(bus: JobBus, job_id: str, *states: JobState) -> Job:
    """The job, once it is in one of these states; waiting for a relay counts as queued."""

    async def probe() -> Job | None:
        job = await bus.get(job_id)
        assert job is not None, f"there is no job {job_id}"
        wanted = (*states, *READY) if JobState.QUEUED in states else states
        return job if job.state in wanted else None

    try:
        job = await eventually(probe)
    except AssertionError:
        raise AssertionError(f"not {', '.join(states)}: {await bus.get(job_id)}") from None
    assert job is not None
    return job


async def ended(bus: JobBus, job_id: str) -> Job:
    """The job, once it has ended."""
    return await in_state(bus, job_id, *(state for state in JobState if state.terminal))


async def all_ended(bus: JobBus, job_ids: Sequence[str]) -> list[Job]:
    """These jobs, once all have ended."""
    return [await ended(bus, job_id) for job_id in job_ids]


async def completed(bus: JobBus, job_id: str) -> Job:
    """The job, which must complete."""
    job = await ended(bus, job_id)
    assert job.state is JobState.COMPLETED, job.problem
    return job


async def story(bus: JobBus, job_id: str) -> list[str]:
    """What happened to the job, in the words of its history; not that a relay took it along."""
    return [
        str(event.type)
        for event in await bus.history(job_id)
        if event.from_state is not JobState.CREATED or event.type is not EventType.RELEASED_TO_QUEUE
    ]


@asynccontextmanager
async def at_work(bus: JobBus, **options: Any) -> AsyncIterator[Worker]:
    """A worker on the bus; at the end it stops, letting handlers finish."""
    worker = Worker(bus, **{"concurrency": 4, "drain_timeout": 5 * SECOND, **options})
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: running.done() or worker.phase is Phase.RUNNING, "a working worker")
        yield worker
    except BaseException:
        worker.stop()  # and again below: nobody waits for the handlers of a failed test
        raise
    finally:
        worker.stop()
        await asyncio.wait_for(running, PATIENCE)


@asynccontextmanager
async def other_process(script: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program of ``tests/flow/programs``, running beside the test."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"tests.flow.programs.{script}", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def told_by(script: str, *arguments: str) -> str:
    """What such a program prints, having ended well."""
    async with other_process(script, *arguments) as process:
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, output.decode()
        return output.decode().strip()


async def let_leases_lapse(bus: JobBus) -> None:
    """Every lease of the store ran out long ago, as far as the store knows."""
    queue: Any = getattr(bus.queue, "ledger", bus.queue)
    past = "to_timestamp(0)" if queue.dialect.name == "postgres" else "0"
    sql = f"UPDATE background_job_claims SET lease_until = {past}"  # noqa: S608  # one of the two
    await queue._run(lambda: _one(Call("script", {}, sql)))


def _one(call: Call) -> Program[None]:
    yield call
