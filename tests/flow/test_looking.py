"""Looking at jobs, waiting for them, following them, and steering many at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from jobbus import (
    CancelOutcome,
    EventType,
    JobBus,
    JobEvent,
    JobFailed,
    JobFilter,
    JobNotFound,
    JobState,
    WaitTimeout,
)
from jobbus.ids import new_id
from tests.flow.support import (
    AT_ONCE,
    PATIENCE,
    READY,
    SECOND,
    SHARED,
    Home,
    all_ended,
    at_work,
    completed,
    ended,
    eventually,
    in_state,
    other_process,
)

SHORT = timedelta(milliseconds=30)


async def test_waiting_returns_the_job_as_soon_as_it_has_ended(bus: JobBus) -> None:
    proceed = asyncio.Event()

    @bus.job
    async def work() -> str:
        await proceed.wait()
        return "done"

    async with at_work(bus):
        job_id = await work.enqueue()
        with pytest.raises(WaitTimeout, match=r"had not ended after 0\.03 s"):
            await bus.wait(job_id, timeout=SHORT)
        with pytest.raises(TimeoutError):
            await work.result(job_id, wait=SHORT)
        waiting = asyncio.create_task(bus.wait(job_id, timeout=PATIENCE * SECOND))
        proceed.set()
        job = await waiting
    assert (job.state, job.result) == (JobState.COMPLETED, b'"done"')


async def test_a_wait_that_times_out_leaves_the_job_alone(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    job_id = await work.enqueue()
    with pytest.raises(WaitTimeout):
        await bus.wait(job_id, timeout=SHORT)
    async with at_work(bus):
        await completed(bus, job_id)


async def test_waiting_for_nothing_is_an_error(bus: JobBus) -> None:
    for unknown in (new_id(), "no id at all"):
        with pytest.raises(JobNotFound, match="no job"):
            await bus.wait(unknown, timeout=SECOND)


@pytest.mark.parametrize("how", ["failed", "cancelled", "expired"])
async def test_a_result_that_never_comes_is_told_with_its_reason(bus: JobBus, how: str) -> None:
    @bus.job(retry=AT_ONCE, max_attempts=1)
    async def work() -> None:
        raise OSError("no such luck")

    if how == "expired":
        job_id = await work.options(expires_in=0.03).enqueue()
        await asyncio.sleep(0.04)
    else:
        job_id = await work.enqueue()
    if how == "cancelled":
        await bus.cancel(job_id)
    async with at_work(bus):
        with pytest.raises(JobFailed, match=f"ended {how}") as raised:
            await work.result(job_id)
    assert ("OSError: no such luck" in str(raised.value)) is (how == "failed")


async def test_watching_shows_every_change_until_the_end(bus: JobBus) -> None:
    proceed = asyncio.Event()

    @bus.job
    async def work() -> None:
        await proceed.wait()

    job_id = await work.enqueue()
    states: list[JobState] = []
    async with at_work(bus):
        async for job in bus.watch(job_id):
            states.append(job.state)
            if job.state is JobState.RUNNING:
                proceed.set()
    assert states[-2:] == [JobState.RUNNING, JobState.COMPLETED]
    with pytest.raises(JobNotFound):
        await anext(aiter(bus.watch(new_id())))


async def test_watching_ends_when_the_job_is_deleted(bus: JobBus) -> None:
    @bus.job(queue="doomed")
    async def work() -> None: ...

    job_id = await work.enqueue()
    changes = aiter(bus.watch(job_id))
    assert (await anext(changes)).state in READY
    assert await bus.purge("doomed") == 1
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def follow(bus: JobBus, seen: list[JobEvent]) -> None:
    async for event in bus.events():
        seen.append(event)


async def test_the_event_stream_tells_what_happens_from_now_on(bus: JobBus) -> None:
    @bus.job(retry=AT_ONCE)
    async def work(succeed: bool) -> None:
        if not succeed:
            raise OSError

    seen: list[JobEvent] = []
    before = await work.enqueue(True)
    following = asyncio.create_task(follow(bus, seen))
    await eventually(lambda: _watched(bus))
    async with at_work(bus, concurrency=1):
        good, bad = await work.enqueue(True), await work.enqueue(False)
        await all_ended(bus, [before, good, bad])
        await eventually(lambda: _saw(seen, bad, EventType.FAILED))
    following.cancel()
    assert [event.type for event in seen if event.job_id == good] == [
        "created", "started", "completed",
    ]  # fmt: skip
    assert [event.type for event in seen if event.job_id == bad].count(
        EventType.RETRY_SCHEDULED
    ) == 2
    assert EventType.CREATED not in {event.type for event in seen if event.job_id == before}
    assert {event.job_type for event in seen} == {"work"}


async def _watched(bus: JobBus) -> bool:
    ledger: Any = getattr(bus.queue, "ledger", bus.queue)
    return bool(ledger._watched)


async def _saw(seen: list[JobEvent], job_id: str, event: EventType) -> bool:
    return any(one.job_id == job_id and one.type is event for one in seen)


@pytest.mark.parametrize("kind", SHARED, indirect=True)
async def test_the_event_stream_tells_what_another_process_does(home: Home, bus: JobBus) -> None:
    assert home.address
    seen: list[JobEvent] = []
    async with other_process("work", home.address, "3") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        following = asyncio.create_task(follow(bus, seen))
        await eventually(lambda: _watched(bus))
        process.stdin.write(b"go\n")
        ids = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().split()
        for job_id in ids:
            await eventually(partial(_saw, seen, job_id, EventType.COMPLETED))
        following.cancel()
    for job_id in ids:
        told = [event.type for event in seen if event.job_id == job_id]
        assert told[-2:] == [EventType.STARTED, EventType.COMPLETED]


async def test_the_numbers_have_the_names_that_people_use(bus: JobBus) -> None:
    proceed = asyncio.Event()

    @bus.job(max_attempts=1)
    async def work(how: str) -> None:
        if how == "fail":
            raise OSError
        if how == "hold":
            await proceed.wait()

    async with at_work(bus, concurrency=1):
        await all_ended(bus, [await work.enqueue("fail"), await work.enqueue("go")])
        holding = await work.enqueue("hold")
        await in_state(bus, holding, JobState.RUNNING)
        for _ in range(2):
            await work.enqueue("go")
        delayed = await work.options(delay=3600).enqueue("go")
        numbers = await bus.stats()
        assert {name: numbers[name] for name in ("total", "waiting", "active", "dead")} == {
            "total": 6, "waiting": 2, "active": 1, "dead": 1,
        }  # fmt: skip
        assert (numbers["completed"], numbers["scheduled"]) == (1, 1)
        depth = await bus.depth()
        assert (depth.ready, depth.leased, depth.delayed, depth.dead) == (2, 1, 1, 1)
        assert depth.oldest_age is not None
        assert await bus.get_queue_depth() == 2
        states = {job.state for job in (await bus.get_active()).jobs} - set(READY)
        assert states == {JobState.RUNNING, JobState.SCHEDULED}
        proceed.set()
    assert await bus.get_status(delayed) is JobState.SCHEDULED
    assert await bus.get_status(new_id()) is None
    assert await bus.get_job(delayed) == await bus.get(delayed)


async def test_aborting_everything_counts_first_when_asked_to(bus: JobBus) -> None:
    started = asyncio.Event()

    @bus.job(queue="media")
    async def hold() -> None:
        started.set()
        await asyncio.sleep(3600)

    @bus.job
    async def work() -> None: ...

    async with at_work(bus, queues=["media"], concurrency=1):
        running = await hold.enqueue()
        await started.wait()
        waiting = [await hold.enqueue(), await work.enqueue(), await work.enqueue()]
        delayed = await work.options(delay=3600, tags=["eu"]).enqueue()
        assert await bus.abort_all(dry_run=True) == 5
        assert await bus.abort_all(JobFilter(queue="media"), dry_run=True) == 2
        assert (await bus.stats())["cancelled"] == 0
        assert await bus.abort_all(JobFilter(tag="eu"), reason="not in the union") == 1
        assert (await ended(bus, delayed)).state is JobState.CANCELLED
        assert await bus.abort_all(reason="all of it") == 4
        jobs = await all_ended(bus, [running, *waiting])
    assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert await bus.abort_all() == 0
    assert await bus.abort_all(JobFilter(states=frozenset({JobState.CANCELLED}))) == 0


async def test_cleaning_up_deletes_what_ended_long_enough_ago(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    async with at_work(bus):
        done = await bus.enqueue_many([work.message() for _ in range(5)])
        await all_ended(bus, done)
        waiting = await work.options(delay=3600).enqueue()
    assert await bus.cleanup(timedelta(hours=1)) == 0
    assert await bus.cleanup(timedelta(0)) == 5
    assert [job.id async for job in bus.find_all()] == [waiting]


async def test_all_that_match_can_be_read_in_pages_without_end(bus: JobBus) -> None:
    @bus.job
    async def work(number: int) -> None: ...

    ids = await bus.enqueue_many([work.message(number) for number in range(450)])
    assert [job.id async for job in bus.find_all()] == ids[::-1]
    assert await bus.count() == 450
    assert await bus.count(cap=100) == 100
    with pytest.raises(ValueError, match="is no cursor"):
        await bus.find(cursor="nonsense")


async def test_several_dead_letters_are_redriven_at_once(bus: JobBus) -> None:
    broken = [True]

    @bus.job(max_attempts=1)
    async def work() -> None:
        if broken:
            raise OSError

    async with at_work(bus):
        ids = [await work.enqueue() for _ in range(3)]
        await all_ended(bus, ids)
        broken.clear()
        done = (await completed(bus, await work.enqueue())).id
        assert sorted(await bus.redrive(*ids, done, new_id())) == sorted(ids)
        for job_id in ids:
            await completed(bus, job_id)


async def test_the_workers_of_a_store_are_known(bus: JobBus) -> None:
    started, proceed = asyncio.Event(), asyncio.Event()

    @bus.job
    async def hold() -> None:
        started.set()
        await proceed.wait()

    async with at_work(bus, concurrency=1):
        job_id = await hold.enqueue()
        await started.wait()
        [worker] = [one for one in await bus.workers() if one.running]
        assert worker.alive
        assert worker.running == 1
        job = await bus.get(job_id)
        assert job is not None
        assert job.worker == worker.name
        proceed.set()


async def test_recovering_by_hand_touches_no_live_lease(bus: JobBus) -> None:
    started, proceed = asyncio.Event(), asyncio.Event()

    @bus.job
    async def hold() -> None:
        started.set()
        await proceed.wait()

    async with at_work(bus, concurrency=1):
        job_id = await hold.enqueue()
        await started.wait()
        assert await bus.recover_stuck() == 0
        proceed.set()
        assert (await completed(bus, job_id)).attempt == 1
    assert await bus.cancel(job_id) == {job_id: CancelOutcome.FINISHED}
