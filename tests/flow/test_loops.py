"""Buses and event loops: none at all, one after the other, one that is running, one in a fork."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from jobbus import (
    CancelOutcome,
    ConfigurationError,
    JobBus,
    JobContext,
    JobFilter,
    JobNotFound,
    JobState,
    WaitTimeout,
)
from jobbus.ids import new_id
from tests.flow.support import (
    PATIENCE,
    READY,
    SECOND,
    SHARED,
    Home,
    all_ended,
    at_work,
    completed,
    ended,
    told_by,
)


def test_code_without_a_loop_enqueues_looks_and_steers(home: Home) -> None:
    bus = home.bus()

    @bus.job
    def work(number: int) -> int:
        return number * 2

    face = bus.sync
    job_id = work.enqueue_sync(21)
    job = face.get(job_id)
    assert job is not None
    assert job.state in READY
    other = face.enqueue("work", {"number": 1}, delay=3600, tags=["later"])
    assert face.enqueue_many([work.message(2)])
    assert [one.id for one in face.find(JobFilter(tag="later")).jobs] == [other]
    assert face.depth().ready == 2
    assert face.cancel(other) == {other: CancelOutcome.CANCELLED}
    assert face.redrive(other) == [other]
    face.pause("default")
    face.resume("default")
    assert face.abort_all(dry_run=True) == 3
    assert face.purge("default") == 3
    assert face.stats()["total"] == 0
    with pytest.raises(JobNotFound):
        face.wait(new_id())
    face.close()


def test_a_worker_elsewhere_runs_what_code_without_a_loop_enqueued(home: Home) -> None:
    producer = home.bus()
    stop = threading.Event()
    results: list[int] = []

    async def serve() -> None:
        async with home.bus() as bus:

            @bus.job
            def work(number: int) -> int:
                return number * 2

            async with at_work(bus):
                await asyncio.to_thread(stop.wait, PATIENCE)

    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    try:
        job_id = producer.sync.enqueue("work", {"number": 21}, unregistered=True)
        job = producer.sync.wait(job_id, timeout=PATIENCE * SECOND)
        results.append(int(job.result or b"0"))
        assert [one.state for one in producer.sync.watch(job_id)] == [JobState.COMPLETED]
        assert producer.sync.history(job_id)[-1].type == "completed"
        late = producer.sync.enqueue("work", {"number": 1}, delay=3600)
        with pytest.raises(WaitTimeout):
            producer.sync.wait(late, timeout=timedelta(milliseconds=20))
    finally:
        stop.set()
        server.join(PATIENCE)
        producer.sync.close()
    assert results == [42]


def test_many_threads_share_one_synchronous_bus(home: Home) -> None:
    bus = home.bus()

    @bus.job
    def work(number: int) -> None: ...

    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: ids.append(work.enqueue_sync(n))) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(set(ids)) == 12
    assert bus.sync.stats()["waiting"] == 12
    bus.sync.close()


def test_buses_opened_at_once_in_several_threads_see_the_same_jobs(home: Home) -> None:
    together = threading.Barrier(4, timeout=PATIENCE)
    counted: list[int] = []

    async def add_one_and_count() -> None:
        bus = home.bus()
        together.wait()
        async with bus:
            await bus.enqueue("work", unregistered=True)
            await asyncio.to_thread(together.wait)
            counted.append(await bus.count())
            await asyncio.to_thread(together.wait)

    threads = [threading.Thread(target=lambda: asyncio.run(add_one_and_count())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert counted == [4, 4, 4, 4]


def test_a_closed_synchronous_bus_starts_anew(home: Home) -> None:
    bus = home.bus()

    @bus.job
    def work() -> None: ...

    bus.sync.close()
    for _ in range(2):
        assert work.enqueue_sync()
        bus.sync.close()
    assert not [one for one in threading.enumerate() if one.name == "jobbus-sync"]


async def test_a_synchronous_call_inside_a_running_loop_is_refused(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    for call in (work.enqueue_sync, bus.sync.stats, lambda: bus.sync.enqueue("work")):
        with pytest.raises(ConfigurationError, match="await"):
            call()
    assert (await bus.stats())["total"] == 0
    job_id = await asyncio.to_thread(work.enqueue_sync)
    assert await bus.get(job_id)
    await asyncio.to_thread(bus.sync.close)


async def test_an_async_handler_that_spawns_synchronously_is_told_to_await(bus: JobBus) -> None:
    @bus.job
    async def child() -> None: ...

    @bus.job(max_attempts=1)
    async def parent(ctx: JobContext) -> None:
        ctx.spawn_sync(child.message())

    async with at_work(bus):
        job = await ended(bus, await parent.enqueue())
    assert job.problem is not None
    assert job.problem.kind == "ConfigurationError"
    assert "await ctx.spawn" in job.problem.message


async def test_a_sync_handler_enqueues_through_the_bus_from_its_thread(bus: JobBus) -> None:
    @bus.job
    def child() -> str:
        return "ran"

    @bus.job
    def parent() -> str:
        return child.enqueue_sync()

    async with at_work(bus):
        assert await child.result(await parent.result(await parent.enqueue())) == "ran"
    await asyncio.to_thread(bus.sync.close)


@pytest.mark.parametrize("kind", SHARED, indirect=True)
async def test_a_bus_works_on_both_sides_of_a_fork(home: Home, bus: JobBus) -> None:
    ran: list[str] = []

    @bus.job
    async def work(who: str) -> None:
        ran.append(who)

    assert home.address
    async with at_work(bus):
        lines = (await told_by("fork", home.address)).splitlines()
        ids = [line.split()[1] for line in lines]
        await all_ended(bus, ids)
    assert len(set(ids)) == 6
    assert sorted(ran) == ["after", "before", "child", "child", "parent", "parent"]


def test_one_bus_serves_one_event_loop_after_the_other(home: Home) -> None:
    bus = home.bus()

    @bus.job
    async def work(number: int) -> int:
        return number

    async def round_trip(number: int) -> int:
        async with bus, at_work(bus):
            return await work.result(await work.enqueue(number))

    assert [asyncio.run(round_trip(number)) for number in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bus_that_nobody_closed_serves_the_next_event_loop_too(home: Home) -> None:
    bus = home.bus()

    @bus.job
    async def work() -> None: ...

    async def enqueue() -> str:
        return await work.enqueue()

    ids = [asyncio.run(enqueue()) for _ in range(2)]

    async def finish() -> None:
        async with bus, at_work(bus):
            for job_id in ids:
                await completed(bus, job_id)

    asyncio.run(finish())


async def test_opening_and_closing_may_be_repeated(home: Home) -> None:
    bus = home.bus()
    await bus.close()
    for _ in range(2):
        await asyncio.gather(bus.open(), bus.open())
        assert await bus.count() == 0
        await bus.close()
        await bus.close()
