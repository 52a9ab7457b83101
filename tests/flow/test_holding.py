"""What workers hold: leases that outlive blocked loops, fences, and no more than they can use."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from jobbus import JobBus, JobContext, JobState, Worker
from jobbus.job import EventType
from jobbus.worker import AttemptReport, fetch
from jobbus.worker.worker import Phase
from tests.flow.support import (
    LOOK,
    PATIENCE,
    SECOND,
    Home,
    at_work,
    completed,
    eventually,
    in_state,
    let_leases_lapse,
    until,
)

LEASE = 2 * SECOND


class Beside:
    """A worker on an event loop of its own, in another thread."""

    def __init__(self, home: Home, declare: Callable[[JobBus], object]) -> None:
        self._home = home
        self._declare = declare
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))
        self._loop: asyncio.AbstractEventLoop | None = None
        self.worker: Worker | None = None

    async def _work(self) -> None:
        async with self._home.bus() as bus:
            self._declare(bus)
            self.worker = Worker(bus, lease=LEASE)
            self._loop = asyncio.get_running_loop()
            await self.worker.run()

    @contextmanager
    def working(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            if self._loop is not None and self.worker is not None:
                self._loop.call_soon_threadsafe(self.worker.stop)
            self._thread.join(PATIENCE)

    @property
    def running(self) -> bool:
        return self.worker is not None and self.worker.phase is Phase.RUNNING


async def test_a_handler_that_blocks_the_loop_for_longer_than_its_lease_keeps_its_job(
    home: Home, bus: JobBus
) -> None:
    ran: list[str] = []

    @bus.job
    async def block() -> None:
        ran.append("here")
        time.sleep(1.5 * LEASE.total_seconds())  # noqa: ASYNC251  # which is what is tested

    def declare(other: JobBus) -> None:
        @other.job(name="block")
        async def steal() -> None:
            ran.append("there")

    async with at_work(bus, lease=LEASE):
        job_id = await block.enqueue()
        await in_state(bus, job_id, JobState.RUNNING, JobState.COMPLETED)
        beside = Beside(home, declare)
        with beside.working():
            await until(lambda: beside.running)
            job = await completed(bus, job_id)
    assert ran == ["here"]
    assert (job.attempt, job.crashes) == (1, 0)


async def test_an_outcome_under_a_lease_that_was_lost_is_refused(home: Home, bus: JobBus) -> None:
    started, proceed = asyncio.Event(), asyncio.Event()
    reports: list[AttemptReport] = []

    @bus.job
    async def work() -> str:
        started.set()
        await proceed.wait()
        return "too late"

    # Its one slot busy, the worker does not look for jobs itself.
    async with home.bus() as other, at_work(bus, concurrency=1) as slow:
        slow.observers.append(reports.append)
        job_id = await work.enqueue()
        await started.wait()
        await let_leases_lapse(bus)

        @other.job(name="work")
        async def same_work() -> str:
            return "in time"

        async with at_work(other):
            assert await same_work.result(job_id) == "in time"
        proceed.set()
        await until(lambda: reports)

        await eventually(lambda: _fenced(bus, job_id))
    job = await completed(bus, job_id)
    assert job.result == b'"in time"'
    assert (job.attempt, job.crashes) == (2, 1)


async def _fenced(bus: JobBus, job_id: str) -> bool:
    return any(event.type is EventType.FENCED for event in await bus.history(job_id))


async def test_a_worker_that_hears_of_its_loss_stops_the_handler_and_reports_nothing(
    home: Home, bus: JobBus
) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()
    reports: list[AttemptReport] = []

    @bus.job
    async def work(ctx: JobContext) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            assert ctx.cancel_requested
            stopped.set()
            raise

    taker = home.new_queue()
    await taker.open()
    try:
        async with at_work(bus, lease=LEASE, drain_timeout=60 * SECOND) as slow:
            slow.observers.append(reports.append)
            job_id = await work.enqueue()
            await started.wait()
            slow.stop()  # it works on, and takes nothing more: else it might be the one to take it
            await let_leases_lapse(bus)
            [taken] = await taker.receive("default", limit=1, wait=10 * SECOND, lease=60 * SECOND)
            assert (taken.job_id, taken.attempt) == (job_id, 2)
            await asyncio.wait_for(stopped.wait(), PATIENCE)
            await until(lambda: reports)
        assert [one.outcome for one in reports] == ["lost"]
        job = await in_state(bus, job_id, JobState.RUNNING)
        assert (job.attempt, job.failures) == (2, 0)
    finally:
        await taker.close()


async def test_a_worker_with_slow_jobs_holds_hardly_more_than_it_runs(bus: JobBus) -> None:
    held: list[int] = []
    done: list[int] = []

    @bus.job
    async def slow(number: int) -> None:
        # In pairs that end shortly after one another, which must not be taken for speed.
        await asyncio.sleep(0.15 + 0.008 * (number % 2))
        done.append(number)

    await bus.enqueue_many([slow.message(number) for number in range(40)])
    async with at_work(bus, concurrency=2) as worker:
        while len(done) < 12:
            held.append(len(worker._holdings))
            await asyncio.sleep(LOOK)
    assert max(held) <= 5


async def test_a_worker_with_quick_jobs_fetches_ahead(bus: JobBus) -> None:
    held: list[int] = []

    @bus.job
    async def quick() -> None: ...

    await bus.enqueue_many([quick.message() for _ in range(1500)])
    async with at_work(bus, concurrency=2) as worker:
        worker.observers.append(lambda report: held.append(len(worker._holdings)))
        await eventually(lambda: _all_done(bus, 1500))
    assert max(held) > 10  # of 2 slots; SQS brings no more than 10 at a time


async def _all_done(bus: JobBus, number: int) -> bool:
    return (await bus.stats())["completed"] == number


async def test_a_connection_that_brings_nothing_although_there_is_work_is_rebuilt(
    home: Home, bus: JobBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-dead connection: it answers, and hands nothing out until it is opened anew."""
    monkeypatch.setattr(fetch, "_SILENCE", 0.1)
    monkeypatch.setattr(fetch, "_WAIT", timedelta(milliseconds=50))
    receive, open_queue = bus.queue.receive, bus.queue.open
    deaf = [True]

    async def receive_nothing(queue: str, **asked: object) -> object:
        if deaf:
            await asyncio.sleep(0.01)
            return []
        return await receive(queue, **asked)  # type: ignore[arg-type]

    async def open_anew() -> None:
        deaf.clear()
        await open_queue()

    monkeypatch.setattr(bus.queue, "receive", receive_nothing)
    monkeypatch.setattr(bus.queue, "open", open_anew)

    @bus.job
    async def work() -> None: ...

    async with at_work(bus), home.bus() as observer:
        await completed(observer, await work.enqueue())
    assert "has work but brings none: reconnecting" in caplog.text
