"""Completed in the handler's transaction: what it wrote and the job's end are one."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from jobbus import JobBus, JobContext, JobState, LeaseLost
from jobbus.backends.memory import MemoryQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.worker import AttemptReport
from tests.flow import isolated
from tests.flow.support import (
    AT_ONCE,
    PATIENCE,
    PLAIN,
    SECOND,
    Home,
    at_work,
    completed,
    ended,
    in_state,
    let_leases_lapse,
    until,
)
from tests.transactions.callers import CALLERS, INSERT, Opener, Orders
from tests.transactions.test_enqueueing import EVERY_CALLER, SYNCHRONOUS


async def insert(connection: Any, number: int) -> None:
    """Write an order through what a transaction of jobbus's gives, on either database."""
    done = connection.execute(INSERT.format(number))
    if asyncio.iscoroutine(done):
        await done


def insert_sync(connection: Any, number: int) -> None:
    connection.execute(INSERT.format(number))


async def take_over(bus: JobBus, taker: BackgroundJobQueue) -> None:
    """Another worker gets the job that runs here, because its lease seems to be over."""
    await let_leases_lapse(bus)
    taken = await taker.receive("default", limit=1, wait=10 * SECOND, lease=60 * SECOND)
    assert [one.attempt for one in taken] == [2]


async def test_an_async_handlers_rows_and_its_jobs_completion_commit_together(
    orders: Orders, bus: JobBus
) -> None:
    @bus.job
    async def ship(ctx: JobContext, number: int) -> str:
        async with ctx.transaction(result="kept") as connection:
            await insert(connection, number)
            job = await bus.get(ctx.job_id)
            assert job is not None
            assert job.state is JobState.RUNNING
        assert orders.numbers() == [number]
        job = await bus.get(ctx.job_id)
        assert job is not None
        assert job.state is JobState.COMPLETED
        return "not this"

    async with at_work(bus):
        job_id = await ship.enqueue(7)
        assert await ship.result(job_id) == "kept"
    assert (await completed(bus, job_id)).attempt == 1
    assert [event.type for event in await bus.history(job_id)] == [
        "created", "started", "completed",
    ]  # fmt: skip


async def test_a_sync_handlers_rows_and_its_jobs_completion_commit_together(
    orders: Orders, bus: JobBus
) -> None:
    @bus.job
    def ship(ctx: JobContext, number: int) -> None:
        with ctx.transaction(result={"number": number}) as connection:
            insert_sync(connection, number)
        assert orders.numbers() == [number]

    async with at_work(bus):
        job = await completed(bus, await ship.enqueue(7))
    assert job.result == b'{"number":7}'


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_a_handler_that_fails_inside_its_transaction_wrote_nothing_and_is_tried_again(
    orders: Orders, bus: JobBus, style: str
) -> None:
    @bus.job(name="ship", retry=AT_ONCE)
    async def ship(ctx: JobContext) -> None:
        async with ctx.transaction() as connection:
            await insert(connection, ctx.attempt)
            if ctx.attempt == 1:
                raise OSError("half way")

    @bus.job(name="ship_sync", retry=AT_ONCE)
    def ship_sync(ctx: JobContext) -> None:
        with ctx.transaction() as connection:
            insert_sync(connection, ctx.attempt)
            if ctx.attempt == 1:
                raise OSError("half way")

    async with at_work(bus):
        job_id = await (ship if style == "async" else ship_sync).enqueue()
        job = await completed(bus, job_id)
    assert job.failures == 1
    assert orders.numbers() == [2]


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_a_worker_that_was_overtaken_has_its_handlers_rows_rolled_back(
    home: Home, orders: Orders, bus: JobBus, style: str
) -> None:
    started, overtaken = asyncio.Event(), asyncio.Event()
    begun, taken = threading.Event(), threading.Event()
    raised: list[BaseException] = []
    reports: list[AttemptReport] = []

    @bus.job(name="async")
    async def ship(ctx: JobContext) -> None:
        started.set()
        await overtaken.wait()
        try:
            async with ctx.transaction() as connection:
                await insert(connection, 7)
        except LeaseLost as error:
            raised.append(error)
            raise

    @bus.job(name="sync")
    def ship_sync(ctx: JobContext) -> None:
        begun.set()
        taken.wait(PATIENCE)
        try:
            with ctx.transaction() as connection:
                insert_sync(connection, 7)
        except LeaseLost as error:
            raised.append(error)
            raise

    taker = home.new_queue()
    await taker.open()
    try:
        async with at_work(bus, concurrency=1) as worker:
            worker.observers.append(reports.append)
            job_id = await (ship if style == "async" else ship_sync).enqueue()
            await until(lambda: started.is_set() or begun.is_set())
            await take_over(bus, taker)
            overtaken.set()
            taken.set()
            await until(lambda: reports)
    finally:
        taken.set()
        await taker.close()
    assert [one.outcome for one in reports] == ["lost"]
    assert "taken over by another worker" in str(raised[0])
    assert orders.numbers() == []
    job = await in_state(bus, job_id, JobState.RUNNING)
    assert (job.attempt, job.failures) == (2, 0)


@pytest.mark.parametrize(("kind", "opener"), EVERY_CALLER, indirect=["kind"])
async def test_a_handler_completes_its_job_on_a_connection_of_its_own(
    orders: Orders, bus: JobBus, opener: Opener
) -> None:
    @bus.job
    async def ship(ctx: JobContext, number: int) -> str:
        async with opener(orders) as caller:
            await caller.add(number)
            await ctx.complete_in(caller.connection, result="kept")
            job = await bus.get(ctx.job_id)
            assert job is not None
            assert job.state is JobState.RUNNING, "not before the commit"
            await caller.commit()
        return "not this"

    async with at_work(bus):
        assert await ship.result(await ship.enqueue(7)) == "kept"
    assert orders.numbers() == [7]


@pytest.mark.parametrize(("kind", "opener"), SYNCHRONOUS, indirect=["kind"])
async def test_a_sync_handler_completes_its_job_on_a_connection_of_its_own(
    orders: Orders, bus: JobBus, opener: Opener
) -> None:
    @bus.job
    def ship(ctx: JobContext, number: int) -> str:
        async def work() -> None:
            async with opener(orders) as caller:
                await caller.add(number)
                ctx.complete_in(caller.connection, result="kept")
                await caller.commit()

        asyncio.run(work())
        return "not this"

    async with at_work(bus):
        assert await ship.result(await ship.enqueue(7)) == "kept"
    assert orders.numbers() == [7]


async def test_completing_on_ones_own_connection_raises_when_the_job_was_taken_over(
    home: Home, orders: Orders, bus: JobBus
) -> None:
    started, overtaken = asyncio.Event(), asyncio.Event()
    reports: list[AttemptReport] = []

    @bus.job
    async def ship(ctx: JobContext) -> None:
        started.set()
        await overtaken.wait()
        async with CALLERS[home.kind][1](orders) as caller:
            await caller.add(7)
            try:
                await ctx.complete_in(caller.connection)
            except LeaseLost:
                await caller.rollback()
                raise
            await caller.commit()

    taker = home.new_queue()
    await taker.open()
    try:
        async with at_work(bus, concurrency=1) as worker:
            worker.observers.append(reports.append)
            await ship.enqueue()
            await started.wait()
            await take_over(bus, taker)
            overtaken.set()
            await until(lambda: reports)
    finally:
        await taker.close()
    assert [one.outcome for one in reports] == ["lost"]
    assert orders.numbers() == []


async def test_rolling_back_ones_own_connection_leaves_the_job_running(
    home: Home, orders: Orders, bus: JobBus
) -> None:
    @bus.job
    async def ship(ctx: JobContext) -> str:
        async with CALLERS[home.kind][0](orders) as caller:
            await caller.add(7)
            await ctx.complete_in(caller.connection, result="rolled back")
            await caller.rollback()
        return "returned"

    async with at_work(bus):
        assert await ship.result(await ship.enqueue()) == "returned"
    assert orders.numbers() == []


async def test_an_error_after_the_transaction_changes_nothing_any_more(
    orders: Orders, bus: JobBus
) -> None:
    reports: list[AttemptReport] = []

    @bus.job(retry=AT_ONCE)
    async def ship(ctx: JobContext) -> None:
        async with ctx.transaction(result="kept") as connection:
            await insert(connection, ctx.attempt)
        raise OSError("too late to matter")

    async with at_work(bus) as worker:
        worker.observers.append(reports.append)
        job = await completed(bus, await ship.enqueue())
        await until(lambda: reports)
    assert (job.result, job.attempt, job.failures) == (b'"kept"', 1, 0)
    assert await bus.get(job.id) == job
    assert orders.numbers() == [1]


async def test_dependents_and_groups_move_on_with_the_handlers_transaction(
    orders: Orders, bus: JobBus
) -> None:
    order: list[str] = []

    @bus.job
    async def step(ctx: JobContext, name: str) -> None:
        order.append(name)
        async with ctx.transaction() as connection:
            await insert(connection, len(order))

    async with at_work(bus):
        first = await step.options(group="tenant").enqueue("first")
        second = await step.options(group="tenant").enqueue("second")
        last = await step.options(depends_on=[first, second]).enqueue("last")
        await completed(bus, last)
    assert order == ["first", "second", "last"]
    assert orders.numbers() == [1, 2, 3]


async def test_a_handler_enqueues_the_next_step_in_its_own_transaction(
    orders: Orders, bus: JobBus
) -> None:
    @bus.job
    async def bill(number: int) -> int:
        return number

    @bus.job(retry=AT_ONCE)
    async def ship(ctx: JobContext) -> None:
        async with ctx.transaction() as connection:
            await insert(connection, ctx.attempt)
            await bill.options(connection=connection).enqueue(ctx.attempt)
            if ctx.attempt == 1:
                raise OSError

    async with at_work(bus):
        await completed(bus, await ship.enqueue())
        [next_step] = [job async for job in bus.find_all() if job.job_type == "bill"]
        assert await bill.result(next_step.id) == 2
    assert orders.numbers() == [2]


async def test_more_handlers_than_connections_each_have_their_transaction(
    orders: Orders, bus: JobBus
) -> None:
    """The transactions of handlers take nothing from what the worker itself needs."""
    inside = 0

    @bus.job
    async def ship(ctx: JobContext, number: int) -> None:
        nonlocal inside
        async with ctx.transaction() as connection:
            inside += 1
            await insert(connection, number)
            await asyncio.sleep(0)

    async with at_work(bus, concurrency=16):
        ids = await bus.enqueue_many([ship.message(number) for number in range(40)])
        for job_id in ids:
            await completed(bus, job_id)
    assert inside == 40
    assert orders.numbers() == list(range(40))


async def test_memory_and_isolated_handlers_have_no_transaction_and_say_so() -> None:
    async with JobBus(PLAIN, queue=MemoryQueue()) as bus:

        @bus.job(max_attempts=1)
        async def ship(ctx: JobContext) -> None:
            async with ctx.transaction():
                pass

        alone = bus.handlers.register(isolated.begin_transaction)
        async with at_work(bus):
            here = await ended(bus, await ship.enqueue())
            there = await ended(bus, await alone.enqueue())
    for job in (here, there):
        assert job.state is JobState.FAILED
        assert job.problem is not None
        assert job.problem.kind == "Unsupported"
    assert here.problem is not None
    assert "SQL backend" in here.problem.message
