"""Enqueued in the caller's transaction: the job exists if and only if that commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from contextlib import closing
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from jobbus import ConfigurationError, InvalidJob, JobBus, JobState, Unsupported
from jobbus.backends.memory import MemoryQueue
from jobbus.errors import JobbusError
from jobbus.ids import new_id
from tests.flow.support import PLAIN, SHARED, Home, at_work, completed, in_state
from tests.transactions.callers import (
    CALLERS,
    ON_BOTH,
    Caller,
    Opener,
    Orders,
    sqlite3_with_begin_by_hand,
)

T = TypeVar("T")

EVERY_CALLER = [
    pytest.param(kind, opener, id=opener.__name__ + (f"-{kind}" if opener in ON_BOTH else ""),
                 marks=[pytest.mark.services] if kind == "postgres" else [])
    for kind, openers in CALLERS.items()
    for opener in openers
]  # fmt: skip
each_caller = pytest.mark.parametrize(("kind", "opener"), EVERY_CALLER, indirect=["kind"])


@each_caller
async def test_a_commit_brings_the_job_and_a_listening_worker_runs_it(
    orders: Orders, bus: JobBus, opener: Opener
) -> None:
    @bus.job
    async def ship(number: int) -> int:
        return number

    async with at_work(bus), opener(orders) as caller:
        await caller.add(7)
        job_id = await ship.options(connection=caller.connection).enqueue(7)
        assert await bus.get(job_id) is None, "nobody else sees it before the commit"
        await caller.commit()
        assert await ship.result(job_id) == 7
    assert orders.numbers() == [7]


@each_caller
async def test_a_rollback_takes_everything_back_that_was_enqueued(
    orders: Orders, bus: JobBus, opener: Opener
) -> None:
    """Also what goes beside the job's own row: keys, dependencies, places in groups."""

    @bus.job
    async def ship(number: int) -> None: ...

    first = await ship.options(group="tenant", delay=3600).enqueue(0)
    async with opener(orders) as caller:
        connection = caller.connection
        await caller.add(7)
        keyed = await ship.options(unique_key="order-7", connection=connection).enqueue(7)
        waiting = await ship.options(depends_on=[keyed, first], connection=connection).enqueue(7)
        grouped = await ship.options(group="tenant", connection=connection).enqueue(7)
        await caller.rollback()
    assert orders.numbers() == []
    assert [job.id async for job in bus.find_all()] == [first]
    async with at_work(bus):
        again = await ship.options(unique_key="order-7").enqueue(7)
        assert again not in (keyed, waiting, grouped), "the key is free"
        await completed(bus, again)
        behind = await ship.options(group="tenant").enqueue(8)
        assert (await in_state(bus, behind, JobState.BLOCKED)).attempt == 0
        await bus.retry(first)
        await completed(bus, behind)


@each_caller
async def test_what_cannot_be_enqueued_leaves_the_rest_of_the_transaction_as_it_was(
    orders: Orders, bus: JobBus, opener: Opener
) -> None:
    @bus.job
    async def ship(number: int) -> None: ...

    async with opener(orders) as caller:
        await caller.add(1)
        good = await ship.options(connection=caller.connection).enqueue(1)
        lost = ship.options(depends_on=[new_id()]).message(2)
        with pytest.raises(InvalidJob, match="do not exist"):
            await bus.enqueue_many([ship.message(2), lost], connection=caller.connection)
        await caller.add(2)
        await caller.commit()
    assert orders.numbers() == [1, 2]
    assert [job.id async for job in bus.find_all()] == [good]


@each_caller
async def test_jobs_that_belong_together_go_in_together(
    orders: Orders, bus: JobBus, opener: Opener
) -> None:
    order: list[str] = []

    @bus.job
    async def step(name: str) -> None:
        order.append(name)

    async with opener(orders) as caller:
        first = step.message("first")
        then = step.options(depends_on=[first.job_id], unique_key="then").message("then")
        ids = await bus.enqueue_many([first, then], connection=caller.connection)
        same = step.options(unique_key="then").message("again")
        assert await bus.enqueue_many([same], connection=caller.connection) == [then.job_id]
        await caller.commit()
    async with at_work(bus):
        for job_id in ids:
            await completed(bus, job_id)
    assert order == ["first", "then"]


async def _refused(caller: Caller, bus: JobBus, orders: Orders) -> None:
    """The caller's connection cannot carry a job; what else it does goes on."""
    with pytest.raises(ConfigurationError):
        await bus.enqueue("ship", {"number": 1}, unregistered=True, connection=caller.connection)
    assert await bus.count() == 0
    await caller.add(1)
    await caller.commit()
    assert orders.numbers() == [1]


@pytest.mark.services
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("opener", CALLERS["postgres"], ids=lambda one: one.__name__)
async def test_a_connection_to_postgres_cannot_carry_jobs_that_are_in_sqlite(
    bus: JobBus, opener: Opener, flow_database: str
) -> None:
    elsewhere = Orders(flow_database)
    elsewhere.make_table()
    async with opener(elsewhere) as caller:
        await _refused(caller, bus, elsewhere)


@pytest.mark.parametrize("kind", SHARED[1:], indirect=True)
@pytest.mark.parametrize("opener", CALLERS["sqlite"], ids=lambda one: one.__name__)
async def test_a_connection_to_sqlite_cannot_carry_jobs_that_are_in_postgres(
    bus: JobBus, opener: Opener, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = Orders(f"sqlite:///{tmp_path_factory.mktemp('elsewhere')}/orders.db")
    elsewhere.make_table()
    async with opener(elsewhere) as caller:
        await _refused(caller, bus, elsewhere)


@pytest.mark.parametrize("connection", [object(), "sqlite:///jobs.db", 7])
async def test_what_is_no_connection_is_refused(bus: JobBus, connection: object) -> None:
    with pytest.raises(ConfigurationError, match="connection= takes a sqlite3, psycopg"):
        await bus.enqueue("ship", unregistered=True, connection=connection)
    assert await bus.count() == 0


async def test_a_connection_that_commits_every_statement_by_itself_is_refused(
    home: Home, orders: Orders, bus: JobBus
) -> None:
    """There would be nothing to commit together, or nobody to commit it."""
    if home.kind == "sqlite":
        connection: object = sqlite3.connect(orders.path, isolation_level=None)
    else:
        connection = psycopg.connect(orders.address, autocommit=True)
    with closing(connection), pytest.raises(ConfigurationError, match="autocommit"):  # type: ignore[type-var]
        await bus.enqueue("ship", unregistered=True, connection=connection)
    assert await bus.count() == 0


@pytest.mark.parametrize("kind", SHARED[1:], indirect=True)
async def test_an_sqlalchemy_connection_in_autocommit_writes_nothing(
    orders: Orders, bus: JobBus
) -> None:
    engine = sqlalchemy.create_engine(
        orders.address.replace("postgresql://", "postgresql+psycopg://"),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection, pytest.raises(JobbusError):
        await bus.enqueue("ship", unregistered=True, connection=connection)
    assert await bus.count() == 0


async def test_memory_joins_no_transaction(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("own") / "orders.db"
    async with JobBus(PLAIN, queue=MemoryQueue()) as bus:
        with (
            closing(sqlite3.connect(path)) as connection,
            pytest.raises(Unsupported, match="memory backend cannot join"),
        ):
            await bus.enqueue("ship", unregistered=True, connection=connection)
        assert await bus.count() == 0


SYNCHRONOUS = [one for one in EVERY_CALLER if "async" not in str(one.id)]


@pytest.mark.parametrize(("kind", "opener"), SYNCHRONOUS, indirect=["kind"])
def test_code_without_a_loop_enqueues_on_its_own_connection_in_its_own_thread(
    home: Home, flow_address: str, opener: Opener
) -> None:
    """SQLite's connections refuse every thread but the one that made them."""
    orders = Orders(flow_address)
    orders.make_table()
    bus = home.bus()

    @bus.job
    def ship(number: int) -> None: ...

    bus.sync.stats()
    opened = opener(orders)
    caller = at_once(opened.__aenter__())
    kept = ship.options(connection=caller.connection).enqueue_sync(1)
    named = bus.sync.enqueue("ship", {"number": 2}, connection=caller.connection)
    assert bus.sync.get(kept) is None
    at_once(caller.commit())
    if opener is sqlite3_with_begin_by_hand:
        caller.connection.execute("BEGIN")
    bus.sync.enqueue_many([ship.message(3)], connection=caller.connection)
    at_once(caller.rollback())
    at_once(opened.__aexit__(None, None, None))
    assert [job.id for job in bus.sync.find().jobs] == [named, kept]
    bus.sync.close()


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, which never has to wait: for code without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it had to wait")


@pytest.fixture
def flow_address(home: Home) -> str:
    assert home.address
    return home.address


async def test_a_long_transaction_of_the_callers_does_not_hold_workers_up(
    home: Home, orders: Orders, bus: JobBus
) -> None:
    """Other jobs run meanwhile on Postgres; on SQLite, with its one writer, right afterwards."""

    @bus.job
    async def ship(number: int) -> int:
        return number

    async with at_work(bus), CALLERS[home.kind][0](orders) as caller:
        late = await ship.options(connection=caller.connection).enqueue(1)
        if home.kind == "postgres":
            await completed(bus, await ship.enqueue(2))
        await caller.commit()
        await completed(bus, late)
        await completed(bus, await ship.enqueue(3))
