"""Workers that die, freeze or lose their key: what becomes of the work is as documented."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobbus import JobBus, JobContext, JobState
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.sql.program import Call, Program
from jobbus.idempotency import Answer, KeyClaim, KeyEnd, KeyState
from jobbus.idempotency.memory import MemoryIdempotencyStore
from jobbus.middleware.idempotency_keys import claim_for
from jobbus.middleware.idempotency_values import KeyEvent
from tests.flow.support import (
    PLAIN,
    ROOT,
    SHARED,
    Home,
    at_work,
    completed,
    eventually,
    let_leases_lapse,
    until,
)
from tests.idempotency.doomed import EXIT
from tests.idempotency.support import Effects, SwitchedStore, key_of, snoozed
from tests.transactions.callers import INSERT, Orders


@pytest.fixture(params=SHARED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def let_keys_lapse(bus: JobBus) -> None:
    """Every key's lease ran out long ago, as far as the store knows."""
    queue: Any = bus.queue
    past = "'epoch'" if queue.dialect.name == "postgres" else "0"
    sql = f"UPDATE background_job_idempotency SET lease_until = {past}"  # noqa: S608  # one of two

    def make() -> Program[None]:
        yield Call("script", {}, sql)

    await queue.run_program(make, write=True)


async def die(home: Home, bus: JobBus, moment: str, effects: Path) -> str:
    """A keyed job whose worker dies at that moment; its leases are over."""

    @bus.job(name="charge")
    async def charge() -> str:
        with effects.open("a") as file:
            file.write("charged again\n")
        return "receipt again"

    assert home.address
    job_id = await charge.options(idempotency_key="k").enqueue()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.idempotency.doomed", home.address, moment, str(effects)),
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == EXIT, told.decode()
    await let_leases_lapse(bus)
    await let_keys_lapse(bus)
    return job_id


@pytest.mark.crash
async def test_killed_between_its_effect_and_the_record_the_work_is_done_again(
    home: Home, bus: JobBus, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    job_id = await die(home, bus, "before", effects)
    async with at_work(bus):
        await completed(bus, job_id)
    assert effects.read_text().splitlines() == ["charged", "charged again"]
    record = await key_of(bus, "charge", "k")
    assert record is not None
    assert (record.state, record.fence, record.crashes) == (KeyState.COMPLETED, 2, 1)


@pytest.mark.crash
async def test_killed_between_the_record_and_the_acknowledgement_the_work_is_not_done_again(
    home: Home, bus: JobBus, tmp_path: Path
) -> None:
    """D-7."""
    effects = tmp_path / "effects"
    job_id = await die(home, bus, "after", effects)
    async with at_work(bus):
        job = await completed(bus, job_id)
    assert effects.read_text().splitlines() == ["charged"]
    assert job.result == b'"receipt"'
    assert job.crashes == 1


async def insert(connection: Any, number: int) -> None:
    done = connection.execute(INSERT.format(number))
    if asyncio.iscoroutine(done):
        await done


@pytest.fixture
def orders(home: Home, bus: JobBus) -> Orders:
    assert home.address
    orders = Orders(home.address)
    orders.make_table()
    return orders


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_key_job_and_the_handlers_rows_are_completed_in_one_transaction(
    bus: JobBus, orders: Orders, style: str
) -> None:
    """D-11, D-13."""
    states: list[KeyState] = []

    async def note(key: str) -> None:
        record = await key_of(bus, "ship", key)
        assert record is not None
        states.append(record.state)

    @bus.job(name="ship")
    async def ship(ctx: JobContext) -> None:
        async with ctx.transaction(result="shipped") as connection:
            await insert(connection, 1)
            await note(ctx.idempotency_key)
        await note(ctx.idempotency_key)

    @bus.job(name="ship_sync")
    def ship_sync(ctx: JobContext) -> None:
        with ctx.transaction(result="shipped") as connection:
            connection.execute(INSERT.format(1))

    chosen = (ship if style == "async" else ship_sync).options(idempotency_key="k")
    async with at_work(bus):
        for _ in range(2):
            job = await completed(bus, await chosen.enqueue())
            assert job.result == b'"shipped"'
    assert orders.numbers() == [1]
    if style == "async":
        assert states == [KeyState.IN_PROGRESS, KeyState.COMPLETED]


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_who_has_lost_the_key_has_its_transaction_rolled_back(
    bus: JobBus, orders: Orders, style: str
) -> None:
    loop = asyncio.get_running_loop()

    async def steal(ctx: JobContext) -> None:
        await let_keys_lapse(bus)
        store = await bus.idempotency_store()
        record = (await store.look([f"{ctx.job_type}/k"]))[0]
        assert record is not None
        thief = KeyClaim(
            key=f"{ctx.job_type}/k", owner="thief", fingerprint=record.fingerprint, job_id="thief"
        )
        [reply] = await store.begin([thief], timedelta(hours=1))
        assert reply.answer is Answer.STOLEN
        end = KeyEnd(hold=thief.held(reply.fence), data=b'"the thief\'s"')
        assert await store.complete([end]) == [Answer.OK]

    @bus.job(name="ship")
    async def ship(ctx: JobContext) -> None:
        await steal(ctx)
        async with ctx.transaction() as connection:
            await insert(connection, 1)

    @bus.job(name="ship_sync")
    def ship_sync(ctx: JobContext) -> None:
        asyncio.run_coroutine_threadsafe(steal(ctx), loop).result(15)
        with ctx.transaction() as connection:
            connection.execute(INSERT.format(1))

    chosen = (ship if style == "async" else ship_sync).options(idempotency_key="k")
    async with at_work(bus) as worker:
        job_id = await chosen.enqueue()
        guard = worker.guard
        assert guard is not None

        async def lost() -> bool:
            await let_leases_lapse(bus)
            job = await bus.get(job_id)
            return job is not None and job.state is JobState.COMPLETED

        await eventually(lost, "another attempt, which finds the thief's result")
        assert guard.counts[KeyEvent.HIT] == 1
    assert orders.numbers() == []
    assert (await completed(bus, job_id)).result == b'"the thief\'s"'


async def test_a_handler_that_outlives_the_keys_lease_keeps_it_by_the_heartbeat() -> None:
    switch = SwitchedStore(MemoryIdempotencyStore())
    effects = Effects()
    async with JobBus(PLAIN, queue=MemoryQueue(), idempotency=switch) as bus:

        @bus.job
        async def slow() -> None:
            effects.seen.append(1)
            effects.started.set()
            await effects.gate.wait()

        keyed = slow.options(idempotency_key="k")
        async with at_work(bus, lease=timedelta(seconds=2)):
            first = await keyed.enqueue()
            await effects.started.wait()
            # Four renewals, a third of a lease apart, reach beyond it.
            await until(lambda: switch.switch.asked.count("renew") >= 4, "renewals")
            await snoozed(bus, await keyed.enqueue())
            effects.gate.set()
            await completed(bus, first)
    assert effects.seen == [1]


async def test_a_handler_whose_key_was_stolen_is_stopped_and_its_result_discarded() -> None:
    store = SwitchedStore(MemoryIdempotencyStore())
    effects = Effects()
    stopped = asyncio.Event()
    async with JobBus(PLAIN, queue=MemoryQueue(), idempotency=store) as bus:

        @bus.job
        async def slow() -> None:
            effects.started.set()
            try:
                await effects.gate.wait()
            finally:
                stopped.set()

        async with at_work(bus, lease=timedelta(seconds=1)):
            message = slow.options(idempotency_key="k").message()
            await bus.enqueue(message)
            await effects.started.wait()
            shared = store.inner._shared  # type: ignore[attr-defined]  # a memory store's
            with shared.lock:
                shared.keys["slow/k"].lease_until = 0.0
                thief = claim_for(message)
            [reply] = await store.inner.begin([thief], timedelta(hours=1))
            assert reply.answer is Answer.STOLEN
            await asyncio.wait_for(stopped.wait(), 15)
    [record] = await store.inner.look(["slow/k"])
    assert record is not None
    assert (record.state, record.fence) == (KeyState.IN_PROGRESS, 2)


async def test_a_key_that_cannot_be_renewed_stops_its_handler_before_the_lease_is_over() -> None:
    """D-4."""
    store = SwitchedStore(MemoryIdempotencyStore())
    stopped, started = asyncio.Event(), asyncio.Event()
    async with JobBus(PLAIN, queue=MemoryQueue(), idempotency=store) as bus:

        @bus.job
        async def slow() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async with at_work(bus, lease=timedelta(seconds=1)):
            await slow.options(idempotency_key="k").enqueue()
            await started.wait()
            store.switch.on = False
            await asyncio.wait_for(stopped.wait(), 15)
