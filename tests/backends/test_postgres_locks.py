"""What waiting for a row's lock must not do to what is told of the job."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg

from jobbus.backends.postgres import PostgresQueue
from jobbus.job import EventType
from jobbus.message import Completion
from jobbus.testing import check_history, message

MINUTE = timedelta(minutes=1)
REFUSED = """
    INSERT INTO background_job_history (job_id, event, from_state, to_state, attempt, reason)
    VALUES (%s, 'fenced', 'running', 'running', 0, 'came too late')
"""
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def test_a_completion_that_waited_for_a_refusal_is_told_after_it(
    empty_database: str,
) -> None:
    """The statement reads the clock first, then waits: its own time is the earlier one."""
    queue = PostgresQueue(empty_database)
    await queue.open()
    sent = message()
    await queue.enqueue([sent])
    (held,) = await queue.receive(sent.queue, limit=1, wait=MINUTE, lease=MINUTE)
    async with await psycopg.AsyncConnection.connect(empty_database) as refusing:
        lock = "SELECT FROM background_jobs WHERE id = %s FOR UPDATE"
        await refusing.execute(lock, [sent.job_id])
        completing = asyncio.create_task(queue.complete([Completion(delivery=held)]))
        async with await psycopg.AsyncConnection.connect(
            empty_database, autocommit=True
        ) as looking:
            async with asyncio.timeout(30):
                while (await (await looking.execute(WAITING)).fetchone()) == (0,):  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(0.01)
        await refusing.execute(REFUSED, [sent.job_id])
        await refusing.commit()
        assert await completing == []
    events = await queue.history(sent.job_id)
    job = await queue.get(sent.job_id)
    await queue.close()
    assert [event.type for event in events][-2:] == [EventType.FENCED, EventType.COMPLETED]
    check_history(events, job)
