"""Groups on queues that require sessions: order, back-offs, and who gets his turn."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from azure.servicebus.exceptions import ServiceBusAuthorizationError

from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.backends.service_bus.links import Links
from jobbus.errors import BackendUnavailable
from jobbus.message import NO_DELAY, CountsAs
from jobbus.testing.make import back, done, message, messages
from tests.backends.service_bus.places import (
    LOCK,
    PATIENCE,
    SILENCE,
    SessionNamespace,
    nothing,
    one,
    patiently,
    several,
)
from tests.emulators.servicebus import Emulator, Fault

MINUTE = timedelta(minutes=1)


@pytest.fixture
def queue(consumer: AzureServiceBusQueue) -> AzureServiceBusQueue:
    """On queues that require sessions."""
    return consumer


# retries


async def test_a_group_keeps_its_order_through_retries_with_back_off(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    batch = messages(3, group="a", max_attempts=9)
    await queue.enqueue(batch)
    seen = []
    for delay in (MINUTE / 3, NO_DELAY, 5 * MINUTE):
        held = await one(queue)
        seen.append((held.job_id, held.attempt, held.failures, held.crashes))
        assert not await queue.abandon([back(held, delay)])
        if delay:
            assert await nothing(queue)
            grouped.emulator.advance(delay)
    for _ in batch:
        held = await one(queue)
        seen.append((held.job_id, held.attempt, held.failures, held.crashes))
        assert not await queue.complete([done(held)])
    first, second, third = (each.job_id for each in batch)
    assert seen == [
        *((first, number + 1, number, 0) for number in range(4)),
        (second, 1, 0, 0),
        (third, 1, 0, 0),
    ]


async def test_each_attempt_of_a_group_is_held_against_its_own_budget(
    queue: AzureServiceBusQueue,
) -> None:
    await queue.enqueue([message(group="a", max_attempts=9, max_crashes=9)])
    for counts_as in (CountsAs.FAILURE, CountsAs.SNOOZE, CountsAs.CRASH, CountsAs.RELEASE):
        assert not await queue.abandon([back(await one(queue), counts_as=counts_as)])
    last = await one(queue)
    assert (last.attempt, last.failures, last.crashes) == (5, 1, 1)


async def test_a_back_off_is_kept_by_whoever_takes_the_group_over(
    grouped: SessionNamespace, queue: AzureServiceBusQueue, another: AzureServiceBusQueue
) -> None:
    """The session's state tells when; closing tells it, dying told it before."""
    batch = messages(2, group="a")
    await another.enqueue(batch)
    held = await one(another)
    assert not await another.abandon([back(held, 60 * MINUTE)])
    await another.close()
    assert await nothing(queue)
    grouped.emulator.advance(60 * MINUTE)
    again = await one(queue)
    assert (again.job_id, again.attempt, again.failures, again.crashes) == (held.job_id, 2, 1, 0)
    assert not await queue.complete([done(again)])
    assert (await one(queue)).job_id == batch[1].job_id


async def test_a_released_job_of_a_group_costs_nothing_and_goes_to_the_next_consumer(
    queue: AzureServiceBusQueue, another: AzureServiceBusQueue
) -> None:
    first, second = messages(2, group="a")
    await another.enqueue([first, second])
    assert not await another.abandon([back(await one(another), counts_as=CountsAs.RELEASE)])
    await another.close()
    again = await one(queue)
    assert (again.job_id, again.attempt, again.failures, again.crashes) == (first.job_id, 2, 0, 0)


async def test_what_was_counted_for_one_message_is_not_held_against_the_next(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    await queue.enqueue(messages(2, group="a"))
    assert not await queue.abandon([back(await one(queue))])
    assert not await queue.complete([done(await one(queue))])
    grouped.emulator.cut_connections()  # so that the session's state still tells of the first
    second = await patiently(queue)
    assert (second.attempt, second.failures, second.crashes) == (1, 0, 0)


async def test_an_abandon_that_could_not_be_written_down_may_be_repeated(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    await queue.enqueue(messages(2, group="a"))
    held = await one(queue)
    busy = Fault(operation="set-session-state", condition="com.microsoft:server-busy", times=2)
    grouped.emulator.inject(busy)
    with pytest.raises(BackendUnavailable):
        await queue.abandon([back(held)])
    assert not await queue.abandon([back(held)])
    assert not await queue.abandon([back(held)])
    again = await one(queue)
    assert (again.job_id, again.attempt, again.failures) == (held.job_id, 2, 1)


async def test_a_scheduled_member_takes_its_place_when_it_is_due(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    late, early = message(group="a", delay=MINUTE / 2), message(group="a")
    await queue.enqueue([late, early])
    assert not await queue.complete([done(await one(queue))])
    assert await nothing(queue)
    grouped.emulator.advance(MINUTE / 2)
    held = await one(queue)
    assert (held.job_id, held.message.group) == (late.job_id, "a")


# several consumers


async def test_two_consumers_never_share_a_group(
    queue: AzureServiceBusQueue, another: AzureServiceBusQueue
) -> None:
    groups = ("a", "b", "c", "d")
    batch = [message(group=name) for _ in range(5) for name in groups]
    await queue.enqueue(batch)
    running: set[str | None] = set()
    order: list[str] = []

    async def consume(side: AzureServiceBusQueue) -> None:
        while len(order) < len(batch):
            found = await side.receive("default", limit=3, wait=SILENCE, lease=LOCK)
            for held in found:
                assert held.message.group not in running
                running.add(held.message.group)
            for held in found:
                order.append(held.job_id)
                await asyncio.sleep(0.005)
                running.discard(held.message.group)
                assert not await side.complete([done(held)])

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for side in (queue, another, queue, another):
            tasks.create_task(consume(side))
    for name in groups:
        members = [each.job_id for each in batch if each.group == name]
        assert [each for each in order if each in members] == members


async def test_a_consumer_leaves_groups_that_it_has_no_use_for_to_others(
    queue: AzureServiceBusQueue, another: AzureServiceBusQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one slot, and a group that keeps it at work."""
    monkeypatch.setattr("jobbus.backends.service_bus.held.TURN", 1000.0)
    await queue.enqueue([message(group="busy") for _ in range(9)])
    others: set[str | None] = {"b", "c", "d"}

    async def work_in_one_slot() -> None:
        while not served.is_set():
            held = await one(queue)
            assert held.message.group == "busy"
            await queue.enqueue([message(group="busy")])
            assert not await queue.complete([done(held)])

    served = asyncio.Event()
    first = await one(queue)
    await queue.enqueue([message(group=name) for name in others if name])
    assert not await queue.complete([done(first)])
    working = asyncio.create_task(work_in_one_slot())
    await asyncio.sleep(SILENCE.total_seconds())  # it could have found them by now
    assert {held.message.group for held in await several(another, 3)} == others
    served.set()
    await working


async def test_a_link_that_the_client_library_has_used_up_is_replaced_in_good_time(
    queue: AzureServiceBusQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobbus.backends.service_bus.held.MOST_REQUESTS", 4)
    batch = messages(9, group="a")
    await queue.enqueue(batch)
    links = set()
    for expected in batch:
        held = await one(queue)
        assert (held.job_id, held.attempt) == (expected.job_id, 1)
        links.add(held.receipt.receiver)
        assert not await queue.complete([done(held)])
    assert len(links) >= 3


async def test_many_groups_get_their_turn_where_few_are_held_at_a_time(
    grouped: SessionNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SB-9: a group that always has work does not starve the others."""
    monkeypatch.setattr("jobbus.backends.service_bus.held.TURN", 0.3)
    queue = grouped.connect(max_sessions=1)
    await queue.open()
    busy = [message(group="busy") for _ in range(200)]
    others = [message(group=name) for name in ("x", "y", "z") for _ in range(2)]
    await queue.enqueue([*busy, *others])
    missing = {each.job_id for each in others}
    order: list[str] = []
    try:
        async with asyncio.timeout(60):
            while missing:
                for held in await queue.receive("default", limit=1, wait=PATIENCE, lease=LOCK):
                    order.append(held.job_id)
                    missing.discard(held.job_id)
                    await asyncio.sleep(0.02)
                    assert not await queue.complete([done(held)])
    finally:
        await queue.close()
    assert len(order) < len(busy)
    for batch in (busy, others[:2], others[2:4], others[4:]):
        ids = [each.job_id for each in batch]
        served = [each for each in order if each in ids]
        assert served == ids[: len(served)]


async def test_jobs_without_a_group_are_handed_out_many_at_a_time(
    queue: AzureServiceBusQueue,
) -> None:
    batch = messages(60)
    await queue.enqueue(batch)
    held = await several(queue, len(batch))
    assert sorted(each.job_id for each in held) == sorted(each.job_id for each in batch)
    assert all(each.message.group is None for each in held)
    assert not await queue.complete([done(each) for each in held])


@pytest.mark.parametrize(
    "names",
    [
        ("x" * 129, "x" * 130),
        ("~lane-00", "~"),
        ("Ærø", "a b", " a", "a\n"),
        ("", "\ud800", "\x00"),
    ],
)
async def test_any_text_may_name_a_group(
    queue: AzureServiceBusQueue, names: tuple[str, ...]
) -> None:
    """What Service Bus could not have as a session's id is hashed, and told beside it."""
    for name in names:
        await queue.enqueue(messages(2, group=name))
    held = await several(queue, len(names))
    assert sorted(each.message.group or "" for each in held) == sorted(names)
    assert await nothing(queue)


@pytest.mark.parametrize("size", [160, 280])
async def test_a_batch_is_never_a_few_bytes_larger_than_the_broker_takes(
    queue: AzureServiceBusQueue, grouped: SessionNamespace, size: int
) -> None:
    """The library does not count what it puts around the messages: the first one's session."""
    await queue.enqueue(messages(900, payload=b"x" * size, group="g" * 128))
    assert grouped.emulator.count(grouped.default) == 900


async def test_more_groups_may_back_off_than_are_kept(
    queue: AzureServiceBusQueue, grouped: SessionNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are let go and found again: their order and their time stand in their states."""
    monkeypatch.setattr("jobbus.backends.service_bus.sessions.PARKED", 1)
    names = ("a", "b", "c")
    await queue.enqueue([message(group=name) for name in names for _ in range(2)])
    firsts = await several(queue, len(names))
    assert not await queue.abandon([back(held, MINUTE / 3) for held in firsts])
    for _ in range(3):
        assert await nothing(queue)
    grouped.emulator.advance(MINUTE / 3)
    again = await several(queue, len(names))
    assert {held.job_id for held in again} == {held.job_id for held in firsts}
    assert {(held.attempt, held.failures, held.crashes) for held in again} == {(2, 1, 0)}


async def test_a_broker_that_has_gone_away_is_told_to_those_who_receive() -> None:
    with Emulator() as emulator:
        place = SessionNamespace(emulator)
        queue = place.connect()
        await queue.open()
        await queue.enqueue([message(group="a"), message(group="a")])
        held = await one(queue)
    try:
        with pytest.raises(BackendUnavailable, match="receiving from queue"):
            await queue.receive("default", limit=1, wait=PATIENCE, lease=LOCK)
        assert list(await queue.complete([done(held)])) == [held]
    finally:
        await queue.close()


async def test_whoever_may_not_receive_may_open_a_queue_with_sessions_to_send(
    grouped: SessionNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*asked: object) -> None:
        raise ServiceBusAuthorizationError

    monkeypatch.setattr(Links, "accept", refuse)
    producer = grouped.connect()
    await producer.open()
    await producer.enqueue([message(group="a")])
    await producer.close()
    assert grouped.emulator.count(grouped.default) == 1
