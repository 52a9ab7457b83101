"""A real bus and a real worker on a bare Service Bus queue: retries, dead letters, heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import pytest_asyncio

from jobbus import JobBus, RetryPolicy, Worker, load_settings
from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.errors import ConfigurationError, Unsupported
from jobbus.message import Completion, Delivery
from tests.backends.service_bus.conftest import Namespace
from tests.backends.service_bus.places import LOCK, SessionNamespace
from tests.emulators.servicebus import Emulator
from tests.flow.support import NOWHERE, until

QUICKLY = RetryPolicy(base=timedelta(milliseconds=50), jitter=False)
PLAIN = load_settings({}, environ={}, directory=NOWHERE)


@asynccontextmanager
async def at_work(bus: JobBus, lease: timedelta = LOCK) -> AsyncIterator[Worker]:
    worker = Worker(bus, concurrency=4, lease=lease, drain_timeout=timedelta(seconds=5))
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


@pytest_asyncio.fixture(loop_scope="module")
async def bus(namespace: Namespace, queue: AzureServiceBusQueue) -> AsyncIterator[JobBus]:
    """On a queue object of its own, over queues that have been emptied."""
    async with JobBus(PLAIN, queue=namespace.connect()) as bus:
        yield bus


async def test_a_job_runs_and_is_gone(bus: JobBus, emulator: Emulator) -> None:
    ran: list[str] = []

    @bus.job(name="greet")
    async def greet(name: str) -> None:
        ran.append(name)

    await greet.enqueue("Ada")
    async with at_work(bus):
        await until(lambda: ran == ["Ada"])
        await until(lambda: emulator.count("default") == 0)
    assert not emulator.dead_letters("default")


async def test_a_job_that_fails_is_tried_again_and_then_dead_lettered(
    bus: JobBus, emulator: Emulator
) -> None:
    attempts: list[int] = []

    @bus.job(name="fragile", retry=QUICKLY)
    async def fragile() -> None:
        attempts.append(len(attempts) + 1)
        raise ValueError(f"it broke {len(attempts)}")

    await fragile.enqueue()
    async with at_work(bus):
        await until(lambda: bool(emulator.dead_letters("default")))
    assert attempts == [1, 2, 3]
    assert emulator.dead_letters("default") == [("ValueError", "it broke 3")]
    assert emulator.count("default") == 0


async def test_jobs_survive_cut_connections(bus: JobBus, emulator: Emulator) -> None:
    ran: set[int] = set()

    @bus.job(name="count")
    async def count(number: int) -> None:
        ran.add(number)
        if number in (3, 9):
            emulator.cut_connections()

    for number in range(12):
        await count.enqueue(number)
    async with at_work(bus):
        await until(lambda: ran == set(range(12)))
        await until(lambda: emulator.count("default") == 0)


def refusals(queue: AzureServiceBusQueue, monkeypatch: pytest.MonkeyPatch) -> list[Delivery]:
    """The completions that will have come too late. A second run would be hidden by the key."""
    lost: list[Delivery] = []
    complete = queue.complete

    async def observed(done: Sequence[Completion]) -> Sequence[Delivery]:
        gone = await complete(done)
        lost.extend(gone)
        return gone

    monkeypatch.setattr(queue, "complete", observed)
    return lost


async def test_a_handler_that_blocks_the_event_loop_keeps_its_lease(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat renews by lock token, from a connection and a thread of its own."""
    lock = timedelta(seconds=4)
    emulator.create_queue("slow-default", lock_duration=lock)
    runs: list[float] = []
    queue = AzureServiceBusQueue(
        emulator.connection_string, queue_prefix="slow-", lock_duration=lock, clock=emulator.now
    )
    lost = refusals(queue, monkeypatch)
    async with JobBus(PLAIN, queue=queue) as bus:

        @bus.job(name="block")
        async def block() -> None:
            runs.append(time.monotonic())
            time.sleep(5.5)  # noqa: ASYNC251  # blocking is the subject

        await block.enqueue()
        async with at_work(bus, lease=lock):
            await until(lambda: bool(runs) and emulator.count("slow-default") == 0)
    assert (len(runs), lost) == (1, [])


async def test_a_handler_that_blocks_the_event_loop_keeps_its_session(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's lock lives on a loop of its own; the heartbeat asks for its renewal there."""
    place = SessionNamespace(emulator, lock=timedelta(seconds=4))
    queue = place.connect()
    runs: list[int] = []
    lost = refusals(queue, monkeypatch)
    async with JobBus(PLAIN, queue=queue) as bus:

        @bus.job(name="block")
        async def block(number: int) -> None:
            runs.append(number)
            time.sleep(5.5)  # noqa: ASYNC251  # blocking is the subject

        await block.options(group="tenant").enqueue(1)
        async with at_work(bus, lease=place.lock):
            await until(lambda: bool(runs) and emulator.count(place.default) == 0)
    assert (runs, lost) == ([1], [])
    assert not emulator.dead_letters(place.default)


async def test_a_failing_job_of_a_group_is_tried_again_before_the_next_one_runs(
    emulator: Emulator,
) -> None:
    place = SessionNamespace(emulator)
    ran: list[tuple[str, int, int]] = []
    async with JobBus(PLAIN, queue=place.connect()) as bus:

        @bus.job(name="step", retry=QUICKLY)
        async def step(tenant: str, number: int) -> None:
            ran.append((tenant, number, len(ran)))
            if number == 0 and sum(one[:2] == (tenant, 0) for one in ran) < 3:
                raise ValueError("not yet")

        for number in range(3):
            for tenant in ("a", "b"):
                await step.options(group=tenant).enqueue(tenant, number)
        async with at_work(bus):
            await until(lambda: emulator.count(place.default) == 0)
    for tenant in ("a", "b"):
        assert [one[1] for one in ran if one[0] == tenant] == [0, 0, 0, 1, 2]
    assert not emulator.dead_letters(place.default)


async def test_a_worker_does_not_start_on_a_queue_that_requires_sessions_unless_told(
    emulator: Emulator,
) -> None:
    place = SessionNamespace(emulator)
    async with JobBus(PLAIN, queue=place.connect(sessions=False)) as bus:
        async with asyncio.timeout(30):
            with pytest.raises(ConfigurationError, match="SESSIONS=true"):
                await Worker(bus, lease=LOCK).run()


async def test_what_needs_a_ledger_is_refused(bus: JobBus) -> None:
    with pytest.raises(Unsupported, match="BACKGROUND_JOBS__LEDGER"):
        _ = bus.store
