"""How a Postgres queue uses its connections: the warmest first; and when others hear of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.errors import BackendUnavailable
from jobbus.message import Delivery
from jobbus.testing.make import message, messages
from tests.flow.support import eventually, until

pytestmark = pytest.mark.asyncio

PATIENCE = 15.0
LEASE = timedelta(seconds=60)


@pytest.fixture
async def queue(empty_database: str) -> AsyncIterator[PostgresQueue]:
    queue = PostgresQueue(empty_database)
    await queue.open()
    yield queue
    await queue.close()


async def _process(connection: psycopg.AsyncConnection[Any]) -> int:
    cursor = await connection.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def _several_processes(queue: PostgresQueue, number: int) -> set[int]:
    """The server's processes of so many statements at once."""
    met = asyncio.Barrier(number)

    async def work(connection: psycopg.AsyncConnection[Any]) -> int:
        await met.wait()
        return await _process(connection)

    return set(await asyncio.gather(*(queue._connections.run(work) for _ in range(number))))


async def test_statements_one_after_the_other_go_to_one_process_of_the_server(
    queue: PostgresQueue,
) -> None:
    assert len(await _several_processes(queue, 4)) == 4
    assert len({await queue._connections.run(_process) for _ in range(9)}) == 1


async def test_more_statements_than_connections_wait_for_their_turn(empty_database: str) -> None:
    queue = PostgresQueue(empty_database, pool_max_size=2)
    await queue.open()
    found = await asyncio.gather(*(queue._connections.run(_process) for _ in range(20)))
    assert len(found) == 20
    assert len(set(found)) <= 2
    await queue.close()


async def test_a_connection_that_broke_is_not_used_again(queue: PostgresQueue) -> None:
    async def end(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    before = await queue._connections.run(_process)
    with pytest.raises(BackendUnavailable):
        await queue._connections.run(end)
    assert await queue._connections.run(_process) != before


async def test_a_statement_that_was_cancelled_leaves_a_connection_that_works(
    queue: PostgresQueue,
) -> None:
    begun = asyncio.Event()

    async def sleep(connection: psycopg.AsyncConnection[Any]) -> None:
        begun.set()
        await connection.execute("SELECT pg_sleep(60)")

    sleeping = asyncio.create_task(queue._connections.run(sleep))
    await begun.wait()
    await asyncio.sleep(0)  # it has sent its statement
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert await queue._connections.run(_process)


async def test_now_and_then_a_connection_goes_by_its_pool(
    queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets go there of what is old, and of what was needed once only."""
    monkeypatch.setattr("jobbus.backends.sql.warm._VISIT", 0.0)
    warm = queue._connections._warm
    assert warm is not None
    await _several_processes(queue, 4)
    assert not warm._resting
    stats = warm._pool.get_stats()
    assert stats["pool_available"] == stats["pool_size"] >= 4


async def test_who_has_a_connection_as_the_queue_is_closed_may_finish(empty_database: str) -> None:
    queue = PostgresQueue(empty_database)
    await queue.open()
    await _several_processes(queue, 3)
    begun, closed = asyncio.Event(), asyncio.Event()

    async def work(connection: psycopg.AsyncConnection[Any]) -> int:
        begun.set()
        await closed.wait()
        return await _process(connection)

    working = asyncio.create_task(queue._connections.run(work))
    await begun.wait()
    warm = queue._connections._warm  # so that nothing is closed for being forgotten
    await queue.close()
    closed.set()
    assert await working
    assert warm is not None
    assert not warm._resting
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as other:

        async def ended() -> bool:
            return not await _sessions_of_jobbus(other)

        await eventually(ended)


async def _sessions_of_jobbus(connection: psycopg.AsyncConnection[Any]) -> int:
    cursor = await connection.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'jobbus' AND datname = current_database()"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


class Others:
    """What another process hears of a queue."""

    def __init__(self, url: str, queue: PostgresQueue) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        channel = psycopg.sql.Identifier(queue._channel)
        self._connection.execute(psycopg.sql.SQL("LISTEN {}").format(channel))

    async def hear(self) -> list[str]:
        return await asyncio.to_thread(self._hear)

    def _hear(self) -> list[str]:
        notices = self._connection.notifies(timeout=PATIENCE, stop_after=1)
        return [notice.payload for notice in notices]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def others(empty_database: str, queue: PostgresQueue) -> Iterator[Others]:
    others = Others(empty_database, queue)
    yield others
    others.close()


async def taking(queue: PostgresQueue, limit: int) -> asyncio.Task[Sequence[Delivery]]:
    """A receive that waits, and does not look once more because listening has begun."""
    with queue._listening():
        pass
    await until(lambda: queue._listener is not None and queue._listener.connected)
    wait = timedelta(seconds=PATIENCE)
    task = asyncio.create_task(queue.receive("default", limit=limit, wait=wait, lease=LEASE))
    await until(lambda: queue._room["default"] == limit)
    return task


@pytest.mark.parametrize("here", [True, False], ids=["somebody waits here", "nobody does"])
async def test_others_hear_of_jobs_whether_somebody_waits_for_them_here_or_not(
    queue: PostgresQueue, others: Others, here: bool
) -> None:
    waiting = await taking(queue, 2) if here else None
    await queue.enqueue(messages(2))
    assert (queue._notifying_soon is not None) == here
    assert await others.hear() == ["default"]
    assert waiting is None or len(await waiting) == 2


async def test_more_jobs_than_are_waited_for_here_are_told_at_once(queue: PostgresQueue) -> None:
    waiting = await taking(queue, 2)
    await queue.enqueue([message(queue="another")])
    assert queue._notifying_soon is None
    await queue.enqueue(messages(3))
    assert queue._notifying_soon is None
    assert len(await waiting) == 2


async def test_a_queue_that_is_closed_at_once_has_told_the_others(
    queue: PostgresQueue, others: Others
) -> None:
    waiting = await taking(queue, 1)
    await queue.enqueue([message()])
    assert queue._notifying_soon is not None
    assert len(await waiting) == 1
    await queue.close()
    assert await others.hear() == ["default"]
