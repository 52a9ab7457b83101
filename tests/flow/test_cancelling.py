"""Jobs that somebody does not want any more: waiting ones never run, running ones are stopped."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from jobbus import Cancelled, CancelOutcome, JobBus, JobContext, JobState
from jobbus.ids import new_id
from jobbus.worker import heartbeat
from tests.flow import isolated
from tests.flow.support import (
    AT_ONCE,
    LOOK,
    PATIENT_LOOKS,
    SHARED,
    Home,
    at_work,
    completed,
    ended,
    eventually,
    in_state,
    story,
    told_by,
    until,
)


@pytest.fixture(autouse=True)
def _attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for requests more often than once a second."""
    monkeypatch.setattr(heartbeat, "_TICK", 0.02)


async def test_a_job_cancelled_while_it_waits_never_runs(bus: JobBus) -> None:
    ran: list[None] = []

    @bus.job
    async def work() -> None:
        ran.append(None)

    waiting = await work.enqueue()
    delayed = await work.options(delay=3600).enqueue()
    blocked = await work.options(depends_on=[delayed]).enqueue()
    outcomes = await bus.cancel(waiting, delayed, blocked, reason="a mistake")
    assert set(outcomes.values()) == {CancelOutcome.CANCELLED}
    async with at_work(bus):
        await completed(bus, await work.enqueue())
    assert len(ran) == 1
    for job_id in (waiting, delayed, blocked):
        assert (await ended(bus, job_id)).state is JobState.CANCELLED
        assert (await bus.history(job_id))[-1].reason == "a mistake"


async def test_a_running_async_handler_is_cancelled_from_another_bus(
    home: Home, bus: JobBus
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

    async with at_work(bus), home.bus() as other:
        job_id = await work.enqueue()
        await started.wait()
        assert await other.cancel(job_id, reason="enough") == {job_id: CancelOutcome.REQUESTED}
        job = await ended(bus, job_id)
    assert cancelled.is_set()
    assert (job.state, job.failures) == (JobState.CANCELLED, 0)
    assert await story(bus, job_id) == ["created", "started", "cancel_requested", "cancelled"]
    [asked] = [e for e in await bus.history(job_id) if e.type == "cancel_requested"]
    assert asked.reason == "enough"


async def test_a_running_sync_handler_sees_the_request_and_stops(bus: JobBus) -> None:
    started = threading.Event()

    @bus.job
    def work(ctx: JobContext) -> None:
        started.set()
        for _ in range(PATIENT_LOOKS):
            ctx.raise_if_cancelled()
            time.sleep(LOOK)

    async with at_work(bus):
        job_id = await work.enqueue()
        await until(started.is_set)
        await bus.cancel(job_id)
        assert (await ended(bus, job_id)).state is JobState.CANCELLED


async def test_a_running_isolated_handler_sees_the_request_and_stops(
    bus: JobBus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("asked")
    work = bus.handlers.register(isolated.stop_when_asked)
    async with at_work(bus):
        job_id = await work.enqueue(str(folder))
        await until(lambda: list(folder.iterdir()), "a running handler")
        await bus.cancel(job_id)
        job = await ended(bus, job_id)
    assert (job.state, job.crashes) == (JobState.CANCELLED, 0)


@pytest.mark.parametrize("kind", SHARED, indirect=True)
async def test_a_running_handler_is_cancelled_from_another_process(home: Home, bus: JobBus) -> None:
    started = asyncio.Event()

    @bus.job
    async def work() -> None:
        started.set()
        await asyncio.sleep(3600)

    assert home.address
    async with at_work(bus):
        job_id = await work.enqueue()
        await started.wait()
        assert await told_by("cancel", home.address, job_id) == CancelOutcome.REQUESTED
        assert (await ended(bus, job_id)).state is JobState.CANCELLED


async def test_work_that_was_finished_all_the_same_counts(bus: JobBus) -> None:
    started = threading.Event()

    @bus.job
    def work(ctx: JobContext) -> str:
        started.set()
        for _ in range(PATIENT_LOOKS):
            if ctx.cancel_requested:
                break
            time.sleep(LOOK)
        return "done just in time"

    async with at_work(bus):
        job_id = await work.enqueue()
        await until(started.is_set)
        await bus.cancel(job_id)
        assert await work.result(job_id) == "done just in time"


async def test_a_cancelled_job_is_not_tried_again(bus: JobBus) -> None:
    started = asyncio.Event()

    @bus.job(retry=AT_ONCE)
    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            raise OSError("could not tidy up") from error

    async with at_work(bus):
        job_id = await work.enqueue()
        await started.wait()
        await bus.cancel(job_id)
        job = await ended(bus, job_id)
    assert (job.state, job.attempt) == (JobState.CANCELLED, 1)


async def test_cancelling_between_two_attempts_prevents_the_second(bus: JobBus) -> None:
    @bus.job
    async def work() -> None:
        raise OSError

    async with at_work(bus):
        job_id = await work.enqueue()
        await in_state(bus, job_id, JobState.RETRYING)
        assert await bus.cancel(job_id) == {job_id: CancelOutcome.CANCELLED}
    assert (await ended(bus, job_id)).state is JobState.CANCELLED


async def test_what_has_ended_or_never_was_is_not_cancelled(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    async with at_work(bus):
        done = (await completed(bus, await work.enqueue())).id
    nobody = new_id()
    assert await bus.cancel(done, nobody, "not an id") == {
        done: CancelOutcome.FINISHED,
        nobody: CancelOutcome.NOT_FOUND,
        "not an id": CancelOutcome.NOT_FOUND,
    }
    assert (await completed(bus, done)).state is JobState.COMPLETED


async def test_children_and_their_children_are_cancelled_with_their_parent(bus: JobBus) -> None:
    started = asyncio.Event()

    @bus.job
    async def leaf() -> None: ...

    @bus.job
    async def branch(ctx: JobContext) -> None: ...

    @bus.job
    async def root(ctx: JobContext) -> None:
        [child] = await ctx.spawn(branch.options(delay=3600).message())
        await ctx.spawn(leaf.options(delay=3600).message())
        await leaf.options(delay=3600, parent_id=child).enqueue()
        started.set()
        await asyncio.sleep(3600)

    async with at_work(bus):
        job_id = await root.enqueue()
        await started.wait()
        outcomes = await bus.cancel(job_id, children=True)
        assert sorted(outcomes.values()) == ["cancelled"] * 3 + ["requested"]
        await ended(bus, job_id)
    states = {(await ended(bus, one)).state for one in outcomes}
    assert states == {JobState.CANCELLED}


async def test_a_handler_may_tidy_up_before_it_stops(bus: JobBus) -> None:
    started, asked, proceed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @bus.job
    async def careful() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            asked.set()
            await proceed.wait()
            raise Cancelled("tidied up") from None

    async with at_work(bus):
        job_id = await careful.enqueue()
        await started.wait()
        await bus.cancel(job_id)
        await asked.wait()
        job = await in_state(bus, job_id, JobState.RUNNING)
        assert job.cancel_requested
        proceed.set()
        assert (await ended(bus, job_id)).state is JobState.CANCELLED


async def test_a_cancelled_job_frees_its_slot(bus: JobBus) -> None:
    started = asyncio.Event()

    @bus.job
    async def hold() -> None:
        started.set()
        await asyncio.sleep(3600)

    @bus.job
    async def quick() -> None: ...

    async with at_work(bus, concurrency=1):
        holding = await hold.enqueue()
        await started.wait()
        waiting = await quick.enqueue()
        await bus.cancel(holding)
        await completed(bus, waiting)
        assert (await eventually(lambda: bus.depth())).leased == 0
