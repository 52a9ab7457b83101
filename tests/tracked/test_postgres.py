"""What is particular to a ledger in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.job import JobState
from jobbus.testing.broker import BareBroker
from jobbus.testing.make import message, messages
from jobbus.tracked import TrackedQueue
from tests.backends.conftest import bystander, empty_database, migrated_database
from tests.tracked.stage import state, take, take_one

__all__ = ["bystander", "empty_database", "migrated_database"]
pytestmark = pytest.mark.asyncio


@pytest.fixture
async def queue(empty_database: str) -> AsyncIterator[TrackedQueue]:
    queue = TrackedQueue(BareBroker(MemoryQueue()), PostgresQueue(empty_database))
    await queue.open()
    yield queue
    await queue.close()


async def test_recovery_by_sql_lets_what_the_broker_lost_be_handed_over_again(
    queue: TrackedQueue, empty_database: str
) -> None:
    sent = message()
    await queue.enqueue([sent])
    await queue.ledger.hand_over("default", limit=1, within=timedelta(0))
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT * FROM recover_stuck_background_jobs(0)").fetchall() == []
    assert (await queue.ledger.hand_over("default", limit=1, within=timedelta(60))).tickets


async def test_two_processes_never_hand_one_job_over_twice(
    queue: TrackedQueue, empty_database: str
) -> None:
    other = PostgresQueue(empty_database)
    await other.open()
    await queue.enqueue(messages(5))
    first = await queue.ledger.hand_over("default", limit=3, within=timedelta(60))
    second = await other.hand_over("default", limit=3, within=timedelta(60))
    await other.close()
    assert (len(first.tickets), len(second.tickets)) == (3, 2)
    assert not {one.job_id for one in first.tickets} & {one.job_id for one in second.tickets}


async def test_a_worker_on_the_ledger_alone_runs_what_no_broker_has(
    queue: TrackedQueue, empty_database: str
) -> None:
    """Leaving the broker out is a change of one setting; the jobs stay where they are."""
    sent = message()
    await queue.enqueue([sent])
    assert await state(queue, sent) is JobState.CREATED
    alone = PostgresQueue(empty_database)
    await alone.open()
    [held] = await alone.receive("default", limit=1, wait=timedelta(0), lease=timedelta(seconds=60))
    await alone.close()
    assert held.job_id == sent.job_id
    assert not await take(queue)


async def test_a_job_from_before_the_broker_came_is_handed_to_it(
    queue: TrackedQueue, empty_database: str
) -> None:
    alone = PostgresQueue(empty_database)
    await alone.open()
    sent = message()
    await alone.enqueue([sent])
    await alone.close()
    assert (await take_one(queue)).job_id == sent.job_id
