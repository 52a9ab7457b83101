"""Jobs that belong together: children, dependencies, and groups in order."""

from __future__ import annotations

import asyncio

import pytest

from jobbus import (
    Dependency,
    InvalidJob,
    JobBus,
    JobContext,
    JobFilter,
    JobState,
    OnFailure,
    RetryPolicy,
)
from jobbus.ids import new_id
from tests.flow.support import AT_ONCE, all_ended, at_work, completed, ended, in_state, story


async def test_a_handler_that_runs_again_spawns_the_same_children_and_no_others(
    bus: JobBus,
) -> None:
    ran: list[int] = []
    spawned: list[list[str]] = []

    @bus.job
    async def child(number: int) -> None:
        ran.append(number)

    @bus.job(retry=AT_ONCE)
    async def parent(ctx: JobContext) -> list[str]:
        first = await ctx.spawn(child.message(0), child.message(1))
        named = await ctx.spawn(child.message(2), child.message(3), key="the rest")
        spawned.append([*first, *named])
        if ctx.attempt < 3:
            raise OSError("after spawning")
        return first + named

    async with at_work(bus):
        job_id = await parent.enqueue()
        children = await parent.result(job_id)
        await all_ended(bus, children)
    assert len(spawned) == 3
    assert spawned[0] == spawned[1] == spawned[2] == children
    assert sorted(ran) == [0, 1, 2, 3]
    page = await bus.find(JobFilter(parent_id=job_id))
    assert {job.id for job in page.jobs} == set(children)
    assert {job.parent_id for job in page.jobs} == {job_id}


async def test_a_named_spawn_does_not_depend_on_the_order_of_the_others(bus: JobBus) -> None:
    @bus.job
    async def child(number: int) -> None: ...

    @bus.job(retry=AT_ONCE)
    async def parent(ctx: JobContext) -> list[str]:
        order = (1, 2) if ctx.attempt == 1 else (2, 1)
        for number in order:
            await ctx.spawn(child.message(number), key=f"number {number}")
        if ctx.attempt == 1:
            raise OSError
        return []

    async with at_work(bus):
        job_id = await parent.enqueue()
        await parent.result(job_id)
    assert await bus.count(JobFilter(parent_id=job_id)) == 2


async def test_a_sync_handler_spawns_from_its_thread(bus: JobBus) -> None:
    @bus.job
    def child(number: int) -> int:
        return number * number

    @bus.job
    def parent(ctx: JobContext) -> list[str]:
        return ctx.spawn_sync(*[child.message(number) for number in range(4)])

    async with at_work(bus):
        children = await parent.result(await parent.enqueue())
        assert [await child.result(one) for one in children] == [0, 1, 4, 9]


async def test_a_scan_that_spawns_its_own_last_step_runs_it_after_all_children(
    bus: JobBus,
) -> None:
    order: list[str] = []

    @bus.job
    async def analyse(name: str) -> None:
        order.append(name)

    @bus.job
    async def export() -> None:
        order.append("export")

    @bus.job
    async def scan(ctx: JobContext) -> str:
        files = await ctx.spawn(*[analyse.message(name) for name in "abcde"], key="files")
        [last] = await ctx.spawn(export.options(depends_on=files).message(), key="export")
        return last

    async with at_work(bus):
        await completed(bus, await scan.result(await scan.enqueue()))
    assert order[-1] == "export"
    assert sorted(order[:-1]) == list("abcde")


async def test_a_job_waits_for_those_that_it_depends_on(bus: JobBus) -> None:
    order: list[str] = []
    proceed = asyncio.Event()

    @bus.job
    async def step(name: str) -> None:
        if name == "slow":
            await proceed.wait()
        order.append(name)

    top = await step.enqueue("top")
    slow = await step.options(depends_on=[top]).enqueue("slow")
    quick = await step.options(depends_on=[top]).enqueue("quick")
    last = await step.options(depends_on=[slow, quick]).enqueue("last")
    assert (await in_state(bus, last, JobState.BLOCKED)).state is JobState.BLOCKED
    async with at_work(bus):
        await completed(bus, quick)
        assert (await in_state(bus, last, JobState.BLOCKED)).attempt == 0
        proceed.set()
        await completed(bus, last)
    assert order == ["top", "quick", "slow", "last"]
    assert await story(bus, last) == ["created", "released_to_queue", "started", "completed"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OnFailure.FAIL, JobState.FAILED),
        (OnFailure.SKIP, JobState.CANCELLED),
        (OnFailure.RUN, JobState.COMPLETED),
    ],
)
async def test_when_a_dependency_fails_its_edge_says_what_becomes_of_the_dependent(
    bus: JobBus, policy: OnFailure, expected: JobState
) -> None:
    ran: list[str] = []

    @bus.job(retry=AT_ONCE, max_attempts=2)
    async def broken() -> None:
        raise OSError

    @bus.job
    async def after(name: str) -> None:
        ran.append(name)

    first = await broken.enqueue()
    child = await after.options(depends_on=[Dependency(first, policy)]).enqueue("child")
    grandchild = await after.options(depends_on=[Dependency(child, policy)]).enqueue("grandchild")
    async with at_work(bus):
        jobs = await all_ended(bus, [child, grandchild])
    assert [job.state for job in jobs] == [expected, expected]
    assert ran == (["child", "grandchild"] if policy is OnFailure.RUN else [])
    if policy is OnFailure.FAIL:
        assert jobs[0].problem is not None
        assert jobs[0].problem.kind == "dependency_failed"
        assert first in jobs[0].problem.message


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(OnFailure.FAIL, JobState.FAILED), (OnFailure.RUN, JobState.COMPLETED)],
)
async def test_a_cancelled_dependency_counts_as_one_that_failed(
    bus: JobBus, policy: OnFailure, expected: JobState
) -> None:
    @bus.job
    async def work() -> None: ...

    first = await work.options(delay=3600).enqueue()
    after = await work.options(depends_on=[Dependency(first, policy)]).enqueue()
    async with at_work(bus):
        await bus.cancel(first)
        assert (await ended(bus, after)).state is expected


async def test_a_dependency_that_has_ended_already_is_no_obstacle(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    async with at_work(bus):
        first = (await completed(bus, await work.enqueue())).id
        await completed(bus, await work.options(depends_on=[first]).enqueue())


async def test_depending_on_a_job_that_is_not_there_is_refused_and_nothing_is_written(
    bus: JobBus,
) -> None:
    @bus.job
    async def work() -> None: ...

    with pytest.raises(InvalidJob, match="do not exist"):
        await work.options(depends_on=[new_id()]).enqueue()
    assert (await bus.stats())["total"] == 0


async def test_a_group_runs_in_order_and_one_at_a_time_however_many_slots_there_are(
    bus: JobBus,
) -> None:
    order: dict[str, list[int]] = {"a": [], "b": []}
    inside = {"a": 0, "b": 0}
    most = {"a": 0, "b": 0}

    @bus.job
    async def work(group: str, number: int) -> None:
        inside[group] += 1
        most[group] = max(most[group], inside[group])
        await asyncio.sleep(0)
        order[group].append(number)
        inside[group] -= 1

    ids = [
        await work.options(group=group, priority=1 + number % 10).enqueue(group, number)
        for number in range(8)
        for group in ("a", "b")
    ]
    async with at_work(bus, concurrency=4):
        await all_ended(bus, ids)
    assert order == {"a": list(range(8)), "b": list(range(8))}
    assert most == {"a": 1, "b": 1}


async def test_a_member_that_fails_holds_its_group_up_until_it_has_ended(bus: JobBus) -> None:
    tried: list[int] = []

    @bus.job(retry=RetryPolicy(base=AT_ONCE.base, jitter=False, max_attempts=3))
    async def work(number: int) -> None:
        tried.append(number)
        if number == 1:
            raise OSError

    ids = [await work.options(group="tenant-1").enqueue(number) for number in range(3)]
    async with at_work(bus):
        jobs = await all_ended(bus, ids)
    assert tried == [0, 1, 1, 1, 2]
    assert [job.state for job in jobs] == ["completed", "failed", "completed"]
