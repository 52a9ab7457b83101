"""Behind a pooler in transaction mode: everything works, and nothing is left in its sessions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from jobbus import EventType, JobBus, JobContext, JobState
from jobbus.backends.postgres import PostgresQueue
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.delivery import EnqueueCases
from jobbus.testing.conformance.ordering import GroupCases, PriorityCases
from jobbus.testing.conformance.settling import SettledCases, SettlingCases
from jobbus.testing.conformance.transactions import TransactionCases
from jobbus.testing.conformance.uniqueness import UniquenessCases
from jobbus.worker import heartbeat
from tests.backends.postgres_tables import empty_tables
from tests.flow.support import (
    AT_ONCE,
    PLAIN,
    all_ended,
    at_work,
    completed,
    ended,
    in_state,
    until,
)
from tests.services import PostgresServer, Services, fresh_database, pgbouncer_before
from tests.transactions.callers import Orders

pytestmark = pytest.mark.services


@dataclass(frozen=True)
class Pooler:
    """One database, seen both ways."""

    url: str
    """Through the pooler."""
    direct_url: str
    beside: psycopg.Connection[Any]
    """To the database itself."""


@pytest.fixture(scope="module")
def pooler_for_all(services: Services, postgres_default: PostgresServer) -> Iterator[Pooler]:
    with (
        fresh_database(postgres_default) as url,
        services.provide("pgbouncer", pgbouncer_before(url)) as pgbouncer,
        psycopg.connect(url, autocommit=True) as beside,
    ):
        asyncio.run(PostgresQueue(pgbouncer.url).migrate())
        yield Pooler(pgbouncer.url, url, beside)


@pytest.fixture
def pooler(pooler_for_all: Pooler) -> Pooler:
    empty_tables(pooler_for_all.beside)
    return pooler_for_all


@pytest.fixture
async def bus(pooler: Pooler) -> AsyncIterator[JobBus]:
    async with JobBus(PLAIN, queue=PostgresQueue(pooler.url)) as bus:
        yield bus


async def test_a_pooler_is_noticed_and_a_plain_server_is_not_taken_for_one(pooler: Pooler) -> None:
    expected = {
        ("auto", pooler.url): True,
        ("auto", pooler.direct_url): False,
        ("transaction", pooler.direct_url): True,
        ("none", pooler.direct_url): False,
    }
    for (how, url), pooled in expected.items():
        queue = PostgresQueue(url, pooler=how)
        await queue.open()
        try:
            assert queue._connections.pooled is pooled, (how, url)
        finally:
            await queue.close()


async def test_jobs_run_with_retries_progress_children_and_order(bus: JobBus) -> None:
    tried: list[int] = []

    @bus.job
    async def child(number: int) -> int:
        return number * number

    @bus.job(retry=AT_ONCE)
    async def parent(ctx: JobContext, numbers: list[int]) -> list[str]:
        tried.append(ctx.attempt)
        ctx.progress(40, "spawning")
        children = await ctx.spawn(*[child.message(number) for number in numbers])
        if ctx.attempt == 1:
            raise OSError("try again")
        return children

    @bus.job
    async def last() -> str:
        return "last"

    async with at_work(bus):
        job_id = await parent.options(unique_key="one").enqueue([2, 3])
        end = await last.options(depends_on=[job_id], delay=0.05).enqueue()
        children = await parent.result(job_id)
        assert [await child.result(one) for one in children] == [4, 9]
        assert await last.result(end) == "last"
    assert tried == [1, 2]
    job = await completed(bus, job_id)
    assert job.failures == 1
    assert job.progress is not None
    assert job.progress.stage == "spawning"
    assert (await bus.stats())["completed"] == 4


async def test_waiting_and_running_jobs_are_cancelled(
    bus: JobBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_TICK", 0.02)
    started = asyncio.Event()

    @bus.job
    async def hold() -> None:
        started.set()
        await asyncio.sleep(3600)

    async with at_work(bus, concurrency=1):
        running = await hold.enqueue()
        await started.wait()
        waiting = await hold.enqueue()
        await bus.cancel(running, waiting)
        jobs = await all_ended(bus, [running, waiting])
    assert {job.state for job in jobs} == {JobState.CANCELLED}


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_a_handlers_transaction_completes_its_job(
    pooler: Pooler, bus: JobBus, style: str
) -> None:
    orders = Orders(pooler.direct_url)
    orders.make_table()

    @bus.job(name="async", retry=AT_ONCE)
    async def ship(ctx: JobContext) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("INSERT INTO orders (number) VALUES (%s)", [ctx.attempt])
            if ctx.attempt == 1:
                raise OSError

    @bus.job(name="sync", retry=AT_ONCE)
    def ship_sync(ctx: JobContext) -> None:
        with ctx.transaction() as connection:
            connection.execute("INSERT INTO orders (number) VALUES (%s)", [ctx.attempt])
            if ctx.attempt == 1:
                raise OSError

    async with at_work(bus):
        await completed(bus, await (ship if style == "async" else ship_sync).enqueue())
    assert orders.numbers() == [2]


async def test_a_callers_transaction_through_the_pooler_carries_a_job(
    pooler: Pooler, bus: JobBus
) -> None:
    @bus.job
    async def ship() -> None: ...

    async with await psycopg.AsyncConnection.connect(
        pooler.url, prepare_threshold=None
    ) as connection:
        undone = await ship.options(connection=connection).enqueue()
        await connection.rollback()
        kept = await ship.options(connection=connection).enqueue()
        await connection.commit()
    async with at_work(bus):
        await completed(bus, kept)
    assert await bus.get(undone) is None


async def test_two_workers_share_the_jobs_and_run_none_twice(pooler: Pooler, bus: JobBus) -> None:
    ran: Counter[int] = Counter()
    by: Counter[str] = Counter()
    other = JobBus(PLAIN, queue=PostgresQueue(pooler.url))

    @bus.job(name="work")
    async def work(number: int) -> None:
        ran[number] += 1
        by["here"] += 1
        await asyncio.sleep(0.001)

    @other.job(name="work")
    async def work_there(number: int) -> None:
        ran[number] += 1
        by["there"] += 1
        await asyncio.sleep(0.001)

    async with other, at_work(bus), at_work(other):
        ids = await bus.enqueue_many([work.message(number) for number in range(400)])
        await all_ended(bus, ids)
    assert len(ran) == 400
    assert set(ran.values()) == {1}
    assert set(by) == {"here", "there"}


async def test_the_event_stream_and_a_dead_worker_need_no_session_either(
    bus: JobBus, pooler: Pooler
) -> None:
    seen: list[EventType] = []

    async def follow() -> None:
        async for event in bus.events():
            seen.append(event.type)

    @bus.job(max_attempts=1)
    async def broken() -> None:
        raise OSError

    following = asyncio.create_task(follow())
    try:
        await until(lambda: bus.queue._watched)  # type: ignore[attr-defined]
        async with at_work(bus):
            assert (await ended(bus, await broken.enqueue())).state is JobState.FAILED
            await until(lambda: EventType.FAILED in seen)
    finally:
        following.cancel()
    assert [one.alive for one in await bus.workers() if one.running] == []


async def test_nothing_of_ours_stays_in_the_poolers_sessions(pooler: Pooler, bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as stranger:
        before = _session(stranger)
        async with at_work(bus):
            ids = await bus.enqueue_many([work.message() for _ in range(30)])
            await all_ended(bus, ids)
            delayed = await work.options(delay=3600).enqueue()
            await in_state(bus, delayed, JobState.SCHEDULED)
            assert _session(stranger) == before
        assert stranger.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert stranger.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
        assert stranger.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        ).fetchone() == (0,)


def _session(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout',"
        " 'TimeZone', 'idle_in_transaction_session_timeout') ORDER BY name"
    ).fetchall()


class TestQueueBehindPgBouncer(
    EnqueueCases,
    SettlingCases,
    SettledCases,
    PriorityCases,
    GroupCases,
    UniquenessCases,
    TransactionCases,
):
    """The specification of a queue, but for the cases that are about the passing of time."""

    @pytest.fixture
    async def queue(self, pooler: Pooler) -> AsyncIterator[PostgresQueue]:
        self.url = pooler.direct_url
        queue = PostgresQueue(pooler.url)
        await queue.open()
        yield queue
        await queue.close()

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            yield connection
