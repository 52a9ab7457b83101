"""A RabbitMQ that stops and starts under workers whose jobs are in a ledger."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from jobbus import JobBus
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.tracked import TrackedQueue
from jobbus.tracked.relay import TRAVELLING
from tests.backends.rabbitmq_broker import new_prefix
from tests.flow.support import PLAIN, at_work, eventually, until
from tests.services import RabbitMqServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240)]
JOBS: Final = 3000
BEFORE: Final = 300
"""Jobs that have run when the broker stops."""


@pytest.fixture
async def buses(owned_rabbitmq: RabbitMqServer, tmp_path: Path) -> AsyncIterator[list[JobBus]]:
    """Two, each on connections of its own, as two processes have them."""
    await asyncio.to_thread(owned_rabbitmq.own().start)
    first = TrackedQueue(
        RabbitMqQueue(owned_rabbitmq.url, queue_prefix=new_prefix()),
        SqliteQueue(tmp_path / "jobs.db", synchronous="NORMAL"),
    )
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(JobBus(PLAIN, queue=queue))
            for queue in (first, first.separate())
        ]


async def test_a_broker_that_is_stopped_and_started_loses_no_job_and_work_goes_on_soon(
    owned_rabbitmq: RabbitMqServer, buses: list[JobBus]
) -> None:
    """Tickets that come again start their jobs: nothing waits until they count as lost (RM-3)."""
    runs: Counter[int] = Counter()
    all_ran = asyncio.Event()

    async def count(number: int) -> None:
        runs[number] += 1
        await asyncio.sleep(0.002)
        if len(runs) == JOBS:
            all_ran.set()

    async def all_completed() -> bool:
        return (await buses[0].stats())["completed"] == JOBS

    counting, _ = (bus.job(name="count")(count) for bus in buses)
    await buses[0].enqueue_many([counting.message(number) for number in range(JOBS)])
    node = owned_rabbitmq.own()
    async with at_work(buses[0]), at_work(buses[1]):
        await until(lambda: len(runs) >= BEFORE, "work before the outage")
        await asyncio.to_thread(node.control, "stop_app")
        assert len(runs) < JOBS
        await asyncio.to_thread(node.control, "start_app")
        async with asyncio.timeout(TRAVELLING.total_seconds() / 2):
            await all_ran.wait()
        await eventually(all_completed, "every outcome in the ledger")
    assert runs == Counter(range(JOBS))
