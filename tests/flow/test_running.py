"""Jobs that go well: how many at once, where they run, and what comes of them."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from jobbus import JobBus, JobContext, JobFailed, JobState, PayloadError
from tests.flow import isolated
from tests.flow.support import all_ended, at_work, completed, ended, story

SLOTS = 3


class Order(BaseModel):
    number: int
    articles: list[str]


@dataclass(frozen=True)
class Receipt:
    number: int
    total: float


class Crowd:
    """Counts who is inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *exc_info: object) -> None:
        self.inside -= 1


async def test_a_job_runs_and_its_result_comes_back_as_the_handlers_own_type(bus: JobBus) -> None:
    @bus.job
    async def bill(order: Order, price: float) -> Receipt:
        return Receipt(order.number, price * len(order.articles))

    async with at_work(bus):
        job_id = await bill.enqueue(Order(number=7, articles=["bread", "salt"]), price=1.5)
        assert await bill.result(job_id) == Receipt(7, 3.0)
    job = await completed(bus, job_id)
    assert job.attempt == 1
    assert job.failures == 0
    assert job.worker
    assert await story(bus, job_id) == ["created", "started", "completed"]


async def test_as_many_async_handlers_run_at_once_as_there_are_slots_and_no_more(
    bus: JobBus,
) -> None:
    crowd, meeting = Crowd(), asyncio.Barrier(SLOTS)

    @bus.job
    async def meet() -> None:
        with crowd:
            await meeting.wait()  # never over unless that many are there

    async with at_work(bus, concurrency=SLOTS):
        ids = await bus.enqueue_many([meet.message() for _ in range(3 * SLOTS)])
        await all_ended(bus, ids)
    assert crowd.most == SLOTS


async def test_as_many_sync_handlers_run_at_once_as_there_are_slots_each_in_a_thread(
    bus: JobBus,
) -> None:
    crowd, meeting = Crowd(), threading.Barrier(SLOTS, timeout=10)
    threads: set[int] = set()

    @bus.job
    def meet() -> None:
        with crowd:
            threads.add(threading.get_ident())
            meeting.wait()

    async with at_work(bus, concurrency=SLOTS):
        ids = await bus.enqueue_many([meet.message() for _ in range(3 * SLOTS)])
        jobs = await all_ended(bus, ids)
    assert {job.state for job in jobs} == {JobState.COMPLETED}
    assert crowd.most == SLOTS
    assert threading.get_ident() not in threads


async def test_isolated_handlers_run_at_once_in_processes_of_their_own(
    bus: JobBus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("meeting")
    meet = bus.handlers.register(isolated.meet)
    async with at_work(bus, concurrency=2):
        ids = [await meet.enqueue(str(folder), 2) for _ in range(2)]
        meetings = [await meet.result(job_id) for job_id in ids]
    assert [one.own for one in meetings] != [meetings[0].own] * 2
    assert os.getpid() not in meetings[0].present
    assert meetings[0].present == meetings[1].present == sorted(one.own for one in meetings)


async def test_an_isolated_handler_reports_spawns_and_sees_its_context(bus: JobBus) -> None:
    for job_type in isolated.HANDLERS:
        bus.handlers.register(job_type)
    async with at_work(bus, concurrency=1):
        job_id = await isolated.report_and_spawn.enqueue(2)
        children = await isolated.report_and_spawn.result(job_id)
        pids = {await isolated.name_process.result(child) for child in children}
        named = await isolated.name_process_async.options(tags=["eu"]).enqueue()
        [pid, own_id, *tags] = await isolated.name_process_async.result(named)
    assert len(pids | {int(pid)}) == 1, "the one slot keeps its process"
    assert (own_id, tags) == (named, ["eu"])
    [heard] = await bus.progress_history(job_id)
    assert (heard.percent, heard.stage, heard.message) == (50, "spawning", "half way")
    for child in children:
        assert (await completed(bus, child)).parent_id == job_id


async def test_a_handler_sees_everything_that_was_asked_for_its_job(bus: JobBus) -> None:
    seen: list[JobContext] = []

    @bus.job(queue="media", max_attempts=4, timeout=30)
    async def look(ctx: JobContext) -> None:
        assert JobContext.current() is ctx
        seen.append(ctx)

    asked = look.options(
        tags=["eu", "night"],
        metadata={"tenant": 7, "plan": {"kind": "gold"}},
        headers={"traceparent": "00-abc-def-01"},
        timeout=12,
    )
    async with at_work(bus):
        job = await completed(bus, await asked.enqueue())
    [ctx] = seen
    assert (ctx.job_id, ctx.job_type, ctx.queue) == (job.id, "look", "media")
    assert (ctx.attempt, ctx.failures, ctx.max_attempts, ctx.last_attempt) == (1, 0, 4, False)
    assert ctx.tags == job.tags == ("eu", "night")
    assert ctx.metadata == job.metadata == {"tenant": 7, "plan": {"kind": "gold"}}
    assert ctx.headers == job.headers == {"traceparent": "00-abc-def-01"}
    assert ctx.timeout is not None
    assert ctx.timeout.total_seconds() == 12
    assert ctx.idempotency_key == job.id


async def test_a_job_that_fails_has_no_result_and_says_why(bus: JobBus) -> None:
    @bus.job(max_attempts=1)
    async def divide(by: int) -> float:
        return 1 / by

    async with at_work(bus):
        job_id = await divide.enqueue(0)
        with pytest.raises(JobFailed, match="ended failed: ZeroDivisionError: division by zero"):
            await divide.result(job_id)


async def test_a_result_that_cannot_be_kept_fails_the_job_once_and_for_all(bus: JobBus) -> None:
    runs: list[None] = []

    @bus.job
    async def huge() -> str:
        runs.append(None)
        return "x" * (1024 * 1024 + 1)

    @bus.job
    async def odd() -> object:
        return object()

    async with at_work(bus):
        job = await ended(bus, await huge.enqueue())
        other = await ended(bus, await odd.enqueue())
    assert (job.state, other.state) == (JobState.FAILED, JobState.FAILED)
    assert job.problem is not None
    assert job.problem.kind == "PayloadTooLarge"
    assert other.problem is not None
    assert other.problem.kind == PayloadError.__name__
    assert len(runs) == 1
