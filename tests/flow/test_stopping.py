"""How workers end: when nothing is left, when told to, when told twice, when time is up."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from jobbus import ConfigurationError, Job, JobBus, JobContext, JobState, Worker
from jobbus.worker import worker as worker_module
from jobbus.worker.worker import Phase
from tests.flow.support import (
    AT_ONCE,
    LOOK,
    PATIENCE,
    PATIENT_LOOKS,
    READY,
    Home,
    all_ended,
    at_work,
    completed,
    eventually,
    in_state,
    story,
    until,
)


async def test_a_burst_ends_when_everything_is_done_retries_and_children_included(
    bus: JobBus,
) -> None:
    @bus.job(retry=AT_ONCE)
    async def child(ctx: JobContext) -> None:
        if ctx.attempt == 1:
            raise OSError

    @bus.job
    async def parent(ctx: JobContext) -> None:
        await ctx.spawn(*[child.options(delay=0.05).message() for _ in range(3)])

    await parent.enqueue()
    await asyncio.wait_for(Worker(bus, burst=True, concurrency=2).run(), PATIENCE)
    numbers = await bus.stats()
    assert (numbers["completed"], numbers["total"]) == (4, 4)


async def test_a_burst_over_nothing_ends_at_once(bus: JobBus) -> None:
    await asyncio.wait_for(Worker(bus, burst=True).run(), PATIENCE)
    assert (await bus.stats())["total"] == 0


async def test_a_worker_that_is_told_to_stop_lets_its_handlers_finish(bus: JobBus) -> None:
    started, proceed = asyncio.Event(), asyncio.Event()

    @bus.job
    async def work() -> None:
        started.set()
        await proceed.wait()

    async with at_work(bus, concurrency=1) as worker:
        running = await work.enqueue()
        await started.wait()
        worker.stop()
        await until(lambda: worker.phase is Phase.DRAINING)
        waiting = await work.enqueue()
        assert (await in_state(bus, running, JobState.RUNNING)).attempt == 1
        proceed.set()
        await completed(bus, running)
    assert worker.phase is Phase.STOPPED
    assert (await in_state(bus, waiting, JobState.QUEUED)).attempt == 0, "nothing new was started"


async def test_what_was_fetched_ahead_goes_back_at_once_and_nothing_is_charged(
    bus: JobBus,
) -> None:
    """One handler blocks the only slot while many jobs already wait behind it in the worker."""
    blocked, proceed = asyncio.Event(), asyncio.Event()
    finished: list[int] = []

    @bus.job
    async def work(number: int) -> None:
        if len(finished) >= 300 and not blocked.is_set():
            blocked.set()
            await proceed.wait()
        finished.append(number)

    ids = await bus.enqueue_many([work.message(number) for number in range(1500)])
    async with at_work(bus, concurrency=1) as worker:
        await asyncio.wait_for(blocked.wait(), PATIENCE)
        # Settled but for the one that blocks and those that wait behind it.
        await eventually(lambda: _count(bus, "completed", len(finished)))
        await eventually(lambda: _fetched_ahead(bus))
        worker.stop()
        rest = len(ids) - len(finished) - 1
        await eventually(lambda: _split(bus, ready=rest, leased=1), "what did not run to go back")
        proceed.set()
    # A fetch that was under way may yet start some, which then go back as well.
    returned = await eventually(lambda: _returned(bus, len(finished), len(ids) - len(finished)))
    for job in returned:
        assert (job.failures, job.crashes, job.snoozes) == (0, 0, 0)
    assert set(await story(bus, returned[0].id)) == {"created", "started", "released"}


async def _returned(bus: JobBus, completed: int, waiting: int) -> list[Job]:
    """The jobs that were started and are ready again; none while others are on their way."""
    numbers = await bus.stats()
    if (numbers["completed"], numbers["waiting"]) != (completed, waiting):
        return []
    started = [job async for job in bus.find_all() if job.attempt and not job.state.terminal]
    return started if all(job.state in READY for job in started) else []


async def _count(bus: JobBus, state: str, number: int) -> bool:
    return (await bus.stats())[state] == number


async def _fetched_ahead(bus: JobBus) -> bool:
    return ((await bus.depth()).leased or 0) > 1


async def _split(bus: JobBus, *, ready: int, leased: int) -> bool:
    depth = await bus.depth()
    return (depth.ready, depth.leased) == (ready, leased)


@pytest.mark.parametrize("how", ["told twice", "time is up"])
async def test_when_patience_ends_what_runs_is_cancelled_and_handed_back(
    bus: JobBus, how: str
) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @bus.job
    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    drain = timedelta(hours=1) if how == "told twice" else timedelta(milliseconds=50)
    async with at_work(bus, drain_timeout=drain) as worker:
        job_id = await work.enqueue()
        await started.wait()
        worker.stop()
        if how == "told twice":
            worker.stop()
        await until(lambda: worker.phase is Phase.STOPPED)
    assert cancelled.is_set()
    job = await in_state(bus, job_id, JobState.QUEUED)
    assert (job.failures, job.crashes, job.snoozes) == (0, 0, 0)
    assert await story(bus, job_id) == ["created", "started", "released"]


async def test_a_released_job_runs_again_elsewhere_at_once(home: Home, bus: JobBus) -> None:
    started = asyncio.Event()

    @bus.job
    async def work() -> None:
        started.set()
        await asyncio.sleep(3600)

    async with home.bus() as other, at_work(bus, drain_timeout=timedelta(0)) as leaving:
        job_id = await work.enqueue()
        await started.wait()

        @other.job(name="work")
        async def same_work() -> str:
            return "done elsewhere"

        async with at_work(other):
            leaving.stop()
            assert await same_work.result(job_id) == "done elsewhere"
        job = await completed(bus, job_id)
    assert (job.attempt, job.failures) == (2, 0)


async def test_a_sync_handler_hears_that_its_worker_goes(bus: JobBus) -> None:
    started = threading.Event()

    @bus.job
    def work(ctx: JobContext) -> None:
        started.set()
        for _ in range(PATIENT_LOOKS):
            ctx.raise_if_cancelled()
            time.sleep(LOOK)

    async with at_work(bus, drain_timeout=timedelta(0)):
        job_id = await work.enqueue()
        await until(started.is_set)
    assert (await in_state(bus, job_id, JobState.QUEUED)).failures == 0


async def test_a_handler_that_will_not_go_is_left_behind_and_its_job_released(
    bus: JobBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "RELEASE_GRACE", 0.1)
    started, let_go = threading.Event(), threading.Event()

    @bus.job
    def deaf() -> None:
        started.set()
        let_go.wait(20)

    try:
        async with at_work(bus, drain_timeout=timedelta(0)) as worker:
            job_id = await deaf.enqueue()
            await until(started.is_set)
        assert worker.stuck == 1
        job = await in_state(bus, job_id, JobState.QUEUED)
        assert await story(bus, job_id) == ["created", "started", "released"]
    finally:
        let_go.set()
    assert (job.failures, job.crashes) == (0, 0)


async def test_a_worker_can_be_stopped_before_it_has_anything_to_do(bus: JobBus) -> None:
    async with at_work(bus) as worker:
        assert worker.running == 0
    assert worker.phase is Phase.STOPPED
    worker.stop()


async def test_after_a_worker_its_bus_still_works(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    for _ in range(2):
        async with at_work(bus):
            await all_ended(bus, [await work.enqueue()])
    assert (await bus.stats())["completed"] == 2


def test_a_worker_without_slots_is_refused(bus: JobBus) -> None:
    with pytest.raises(ConfigurationError, match="concurrency >= 1"):
        Worker(bus, concurrency=0)
