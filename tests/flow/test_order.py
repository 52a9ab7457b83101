"""When jobs run: priorities, delays, deadlines, keys, pauses, and several queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobbus import ConfigurationError, InvalidJob, JobBus, JobState, Priority, Worker
from tests.flow.support import (
    LOOK,
    SECOND,
    all_ended,
    at_work,
    completed,
    ended,
    in_state,
    story,
)


async def test_with_one_slot_the_more_urgent_runs_first_and_equals_in_order(bus: JobBus) -> None:
    order: list[str] = []

    @bus.job
    async def work(name: str) -> None:
        order.append(name)

    asked: list[tuple[str, int | str]] = [
        ("low", Priority.LOW), ("first normal", "normal"), ("ten", 10), ("one", 1),
        ("second normal", 5), ("high", "high"), ("six", 6),
    ]  # fmt: skip
    ids = [await work.options(priority=priority).enqueue(name) for name, priority in asked]
    async with at_work(bus, concurrency=1):
        await all_ended(bus, ids)
    assert order == ["ten", "high", "six", "first normal", "second normal", "low", "one"]


@pytest.mark.parametrize("how", ["delay", "run_at", "both"])
async def test_a_delayed_job_does_not_start_before_its_time(bus: JobBus, how: str) -> None:
    @bus.job
    async def work() -> None: ...

    wait = timedelta(milliseconds=300)
    moment = datetime.now(UTC) + wait
    asked = {
        "delay": work.options(delay=wait),
        "run_at": work.options(run_at=moment),
        "both": work.options(delay=0.01, run_at=moment),
    }[how]
    async with at_work(bus):
        job_id = await asked.enqueue()
        assert (await in_state(bus, job_id, JobState.SCHEDULED)).attempt == 0
        job = await completed(bus, job_id)
    assert job.started_at is not None
    assert job.started_at >= job.run_at
    due = job.created_at + wait if how == "delay" else moment
    assert abs(job.run_at - due) <= timedelta(milliseconds=1)
    assert await story(bus, job_id) == ["created", "released_to_queue", "started", "completed"]


async def test_a_time_that_has_passed_is_now(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    async with at_work(bus):
        await completed(bus, await work.options(run_at=datetime.now(UTC) - SECOND).enqueue())


async def test_a_scheduled_job_can_be_brought_forward(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    async with at_work(bus):
        job_id = await work.options(delay=3600).enqueue()
        assert await bus.retry(job_id) == [job_id]
        await completed(bus, job_id)


async def test_a_unique_key_stands_for_the_unfinished_job_that_holds_it(bus: JobBus) -> None:
    proceed = asyncio.Event()

    @bus.job
    async def work() -> None:
        await proceed.wait()

    @bus.job
    async def other() -> None: ...

    once = work.options(unique_key="report-7")
    async with at_work(bus):
        first = await once.enqueue()
        assert await once.enqueue() == first
        await in_state(bus, first, JobState.RUNNING)
        assert await once.enqueue() == first
        assert await other.options(unique_key="report-7").enqueue() != first, "of another type"
        proceed.set()
        await completed(bus, first)
        second = await once.enqueue()
        assert second != first
        await completed(bus, second)


async def test_a_job_that_nobody_started_in_time_expires(bus: JobBus) -> None:
    ran: list[str] = []

    @bus.job
    async def work(name: str) -> None:
        ran.append(name)

    late = await work.options(expires_in=0.05).enqueue("late")
    in_time = await work.options(expires_in=60).enqueue("in time")
    await asyncio.sleep(0.06)
    async with at_work(bus):
        assert (await ended(bus, late)).state is JobState.EXPIRED
        await completed(bus, in_time)
    assert ran == ["in time"]


async def test_a_job_types_own_expiry_holds_for_its_jobs(bus: JobBus) -> None:
    @bus.job(expires_in=0.05)
    async def work() -> None: ...

    job_id = await work.enqueue()
    await asyncio.sleep(0.06)
    async with at_work(bus):
        assert (await ended(bus, job_id)).state is JobState.EXPIRED


async def test_a_paused_queue_hands_nothing_out_until_it_is_resumed(bus: JobBus) -> None:
    proceed = asyncio.Event()

    @bus.job(queue="media")
    async def work() -> None:
        await proceed.wait()

    @bus.job(queue="mail")
    async def mail() -> None: ...

    async with at_work(bus):
        running = await work.enqueue()
        await in_state(bus, running, JobState.RUNNING)
        await bus.pause("media", reason="the disk is full")
        waiting = await work.enqueue()
        proceed.set()
        await completed(bus, running)
        await completed(bus, await mail.enqueue())
        assert (await in_state(bus, waiting, JobState.QUEUED)).attempt == 0
        [status] = [one for one in await bus.queues() if one.name == "media"]
        assert (status.paused, status.reason) == (True, "the disk is full")
        await bus.resume("media")
        await completed(bus, waiting)


async def test_the_light_queue_is_served_although_the_heavy_one_never_runs_dry(
    bus: JobBus,
) -> None:
    done: Counter[str] = Counter()
    enough = asyncio.Event()

    @bus.job(queue="heavy")
    async def heavy() -> None:
        done["heavy"] += 1
        await asyncio.sleep(LOOK)
        if not enough.is_set():
            await heavy.enqueue()

    @bus.job(queue="light")
    async def light() -> None:
        done["light"] += 1

    await bus.enqueue_many([heavy.message() for _ in range(20)])
    ids = await bus.enqueue_many([light.message() for _ in range(5)])
    async with at_work(bus, queues={"heavy": 5, "light": 1}, concurrency=1):
        try:
            await all_ended(bus, ids)
        finally:
            enough.set()
    assert done["light"] == 5
    assert done["heavy"] > 0


async def test_a_worker_serves_the_queues_that_it_was_given_and_no_others(bus: JobBus) -> None:
    @bus.job(queue="mine")
    async def mine() -> None: ...

    @bus.job(queue="yours")
    async def yours() -> None: ...

    other = await yours.enqueue()
    async with at_work(bus, queues=["mine"]):
        await completed(bus, await mine.enqueue())
        assert (await in_state(bus, other, JobState.QUEUED)).attempt == 0


async def test_a_worker_left_to_itself_serves_every_queue_that_its_handlers_name(
    bus: JobBus,
) -> None:
    @bus.job(queue="media")
    async def media() -> None: ...

    @bus.job
    async def plain() -> None: ...

    worker = Worker(bus)
    assert set(worker.queues) == {"default", "media"}
    async with at_work(bus):
        await all_ended(bus, [await media.enqueue(), await plain.enqueue()])


async def test_a_job_sent_to_another_queue_goes_there(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    job_id = await work.options(queue="elsewhere").enqueue()
    assert (await bus.depth("elsewhere")).ready == 1
    async with at_work(bus, queues=["elsewhere"]):
        assert (await completed(bus, job_id)).queue == "elsewhere"


@pytest.mark.parametrize("weight", [0, -1])
def test_a_queue_without_weight_would_never_be_served_and_is_refused(
    bus: JobBus, weight: float
) -> None:
    with pytest.raises(ConfigurationError, match="weight of queue 'idle' must be above 0"):
        Worker(bus, queues={"idle": weight})


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"delay": -1}, "delay cannot be negative"),
        ({"priority": 11}, "priority is 1 to 10"),
        ({"priority": "urgent"}, "priority is 1 to 10, or low, normal, high"),
        ({"max_attempts": 0}, "at least 1"),
        ({"timeout": 0}, "timeout must be more than 0 s"),
        ({"delay": 60, "expires_at": datetime(2000, 1, 1, tzinfo=UTC)}, "expire"),
        ({"run_at": datetime(2030, 1, 1)}, "run_at"),  # that is the mistake
        ({"tags": "eu"}, "tags is a sequence"),
        ({"queue": "no spaces please"}, "is no name"),
        ({"group": ""}, "is no name"),
        ({"depends_on": ["not-a-uuid"]}, "is no UUID"),
        ({"delay": 1, "delay_seconds": 1}, "another name"),
    ],
)
async def test_what_can_never_be_right_is_refused_before_anything_is_written(
    bus: JobBus, asked: dict[str, Any], complaint: str
) -> None:
    @bus.job
    async def work() -> None: ...

    with pytest.raises(InvalidJob, match=complaint):
        await bus.enqueue("work", **asked)
    assert (await bus.stats())["total"] == 0
