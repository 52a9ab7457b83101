"""A real bus and a real worker on a bare RabbitMQ: without a ledger, every job comes to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest

from jobbus import JobBus, JobContext, PermanentError, RetryPolicy, Snooze, Unsupported
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.message import QueueDepth
from tests.backends.rabbitmq_broker import delete_all, empty, new_prefix
from tests.flow.support import AT_ONCE, PLAIN, SECOND, at_work, eventually, until
from tests.services import RabbitMqServer

SHORTLY = RetryPolicy(base=timedelta(milliseconds=200), jitter=False)


@pytest.fixture(scope="module")
def prefix(rabbitmq_server: RabbitMqServer) -> Iterator[str]:
    prefix = new_prefix()
    yield prefix
    asyncio.run(delete_all(rabbitmq_server.url, prefix))


@pytest.fixture
async def bus(rabbitmq_server: RabbitMqServer, prefix: str) -> AsyncIterator[JobBus]:
    queue = RabbitMqQueue(rabbitmq_server.url, queue_prefix=prefix)
    async with JobBus(PLAIN, queue=queue) as bus:
        await empty(rabbitmq_server.url, prefix)
        yield bus


async def with_depth(bus: JobBus, wanted: Callable[[QueueDepth], bool]) -> None:
    async def probe() -> bool:
        return wanted(await bus.queue.get_queue_depth("default"))

    await eventually(probe, "the depth")


async def test_a_job_that_fails_is_tried_again_after_its_delay_until_it_succeeds(
    bus: JobBus,
) -> None:
    seen: list[tuple[int, int]] = []

    @bus.job(retry=SHORTLY)
    async def third_time(ctx: JobContext, name: str) -> None:
        seen.append((ctx.attempt, ctx.failures))
        if len(seen) < 3:
            raise ConnectionError(f"the line to {name} is busy")

    async with at_work(bus):
        await third_time.enqueue("Ada")
        await until(lambda: len(seen) == 3)
    assert seen == [(1, 0), (2, 1), (3, 2)]
    await with_depth(bus, lambda depth: depth.ready == depth.dead == 0)


@pytest.mark.parametrize(
    "error", [PermanentError("never"), ValueError("again and again")], ids=repr
)
async def test_a_job_that_cannot_succeed_goes_to_the_dead_letters(
    bus: JobBus, error: Exception
) -> None:
    @bus.job(retry=AT_ONCE)
    async def hopeless() -> None:
        raise error

    async with at_work(bus):
        await hopeless.enqueue()
        await with_depth(bus, lambda depth: depth.dead == 1)
    await with_depth(bus, lambda depth: depth.ready == 0)


async def test_a_snooze_burns_no_attempt(bus: JobBus) -> None:
    seen: list[tuple[int, int]] = []

    @bus.job
    async def later(ctx: JobContext) -> None:
        seen.append((ctx.attempt, ctx.failures))
        if len(seen) == 1:
            raise Snooze(timedelta(milliseconds=100))

    async with at_work(bus):
        await later.enqueue()
        await until(lambda: len(seen) == 2)
    assert seen == [(1, 0), (2, 0)]


async def test_a_job_that_does_not_end_before_its_worker_does_is_run_by_the_next_one(
    bus: JobBus,
) -> None:
    seen: list[tuple[int, int]] = []
    ended = asyncio.Event()

    @bus.job
    async def long_one(ctx: JobContext) -> None:
        seen.append((ctx.attempt, ctx.failures))
        if len(seen) == 1:
            await asyncio.sleep(3600)
        ended.set()

    async with at_work(bus, drain_timeout=SECOND / 10):
        await long_one.enqueue()
        await until(lambda: seen)
    async with at_work(bus):
        await asyncio.wait_for(ended.wait(), 15)
    assert seen == [(1, 0), (2, 0)]


async def test_a_burst_leaves_nothing_behind_that_was_ready(bus: JobBus) -> None:
    done: set[int] = set()

    @bus.job
    async def note(number: int) -> None:
        done.add(number)

    await bus.enqueue_many([note.message(number) for number in range(300)])
    async with at_work(bus, burst=True) as worker:
        await until(lambda: worker.phase == "stopped")
    assert done == set(range(300))
    await with_depth(bus, lambda depth: depth.ready == depth.dead == 0)


async def test_a_handler_that_blocks_the_event_loop_for_a_while_keeps_its_job(
    bus: JobBus,
) -> None:
    """The heartbeat, on its own thread, finds the channel alive."""
    seen: list[int] = []

    @bus.job
    async def blocking(ctx: JobContext) -> None:
        seen.append(ctx.attempt)
        time.sleep(1.5)  # noqa: ASYNC251  # that is the subject

    async with at_work(bus, lease=SECOND):
        await blocking.enqueue()
        await until(lambda: seen)
    await with_depth(bus, lambda depth: depth.ready == 0)
    assert seen == [1]


async def test_a_worker_refuses_job_types_that_the_broker_cannot_carry_and_says_what_would(
    bus: JobBus,
) -> None:
    @bus.job(priority=8)
    async def urgent() -> None: ...

    @bus.job(timeout=timedelta(hours=30))
    async def endless() -> None: ...

    @bus.job(expires_in=timedelta(hours=1))
    async def perishable() -> None: ...

    with pytest.raises(Unsupported) as caught:
        async with at_work(bus):
            pytest.fail("the worker started")
    told = str(caught.value)
    assert "urgent has priority 8" in told
    assert "endless may run for" in told
    assert "perishable has a start deadline" in told
    assert "BACKGROUND_JOBS__LEDGER" in told


async def test_what_needs_a_ledger_is_refused_with_the_setting_that_would_help(
    bus: JobBus,
) -> None:
    @bus.job
    async def plain() -> None: ...

    with pytest.raises(Unsupported, match="BACKGROUND_JOBS__LEDGER"):
        await plain.options(priority=9).enqueue()
    with pytest.raises(Unsupported, match="BACKGROUND_JOBS__LEDGER"):
        await bus.get("0198c0de-0000-7000-8000-000000000000")
