"""Locks of sessions: how they are lost, and what becomes of jobs whose consumers die."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.message import Delivery, LeaseState
from jobbus.testing.make import back, dead, done, message, messages
from tests.backends.service_bus.places import (
    LOCK,
    SessionNamespace,
    nothing,
    one,
    patiently,
    several,
)

Settle = Callable[[AzureServiceBusQueue, Delivery], Awaitable[Sequence[Delivery]]]
VERBS: dict[str, Settle] = {
    "complete": lambda queue, held: queue.complete([done(held)]),
    "abandon": lambda queue, held: queue.abandon([back(held)]),
    "dead_letter": lambda queue, held: queue.dead_letter([dead(held)]),
}


@pytest.fixture
def queue(consumer: AzureServiceBusQueue) -> AzureServiceBusQueue:
    """On queues that require sessions."""
    return consumer


# locks


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_under_a_session_that_is_lost_every_verb_says_lost(
    queue: AzureServiceBusQueue, grouped: SessionNamespace, verb: str
) -> None:
    """SB-3: nobody has taken it over yet, and still it is over."""
    await queue.enqueue([message(group="a"), message()])
    held = await several(queue, 2)
    grouped.emulator.advance(LOCK * 1.1)
    for each in held:
        assert list(await VERBS[verb](queue, each)) == [each]
    assert list(await queue.extend(held, LOCK)) == [LeaseState.LOST] * 2


async def test_a_session_whose_job_runs_on_and_on_is_kept_by_its_heartbeat(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    """SB-2: links that idle for ten minutes are detached. One that renews does not idle."""
    await queue.enqueue(messages(2, group="a"))
    held = await one(queue)
    grouped.emulator.detach_idle_links_after(timedelta(minutes=10))
    try:
        for _ in range(30):
            grouped.emulator.advance(LOCK * 0.7)
            assert list(await queue.extend([held], LOCK)) == [LeaseState.KEPT]
        assert not await queue.complete([done(held)])
    finally:
        grouped.emulator.detach_idle_links_after(None)


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_a_cut_connection_loses_the_session_and_says_so(
    queue: AzureServiceBusQueue, grouped: SessionNamespace, verb: str
) -> None:
    """The lock is the link's: another link cannot settle under it."""
    first, second = messages(2, group="a")
    await queue.enqueue([first, second])
    held = await one(queue)
    assert grouped.emulator.cut_connections() > 0
    assert list(await VERBS[verb](queue, held)) == [held]
    again = await patiently(queue)
    assert (again.job_id, again.attempt, again.crashes) == (first.job_id, 2, 1)
    assert not await queue.complete([done(again)])
    assert (await one(queue)).job_id == second.job_id


async def test_a_job_whose_worker_lets_its_lease_lapse_is_counted_though_its_lane_is_kept(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    lane = await _lane_mates(queue)
    left, kept = lane
    grouped.emulator.advance(LOCK / 2)
    assert list(await queue.extend([kept], LOCK)) == [LeaseState.KEPT]
    grouped.emulator.advance(LOCK * 0.6)
    again = await one(queue)
    assert (again.job_id, again.attempt, again.crashes) == (left.job_id, 2, 1)
    assert list(await queue.complete([done(left)])) == [left]
    assert not await queue.complete([done(kept), done(again)])


async def _lane_mates(queue: AzureServiceBusQueue) -> list[Delivery]:
    """Two deliveries under the lock of one session."""
    batch = messages(17)  # one more than there are lanes
    await queue.enqueue(batch)
    by_lane: dict[str, list[Delivery]] = {}
    for held in await several(queue, len(batch)):
        by_lane.setdefault(str(held.receipt.received.session_id), []).append(held)
    mates = next(held for held in by_lane.values() if len(held) > 1)[:2]
    others = [each for held in by_lane.values() for each in held if each not in mates]
    assert not await queue.complete([done(each) for each in others])
    return mates


async def test_a_delivery_may_be_settled_after_its_queue_was_closed_and_opened_again(
    queue: AzureServiceBusQueue, grouped: SessionNamespace
) -> None:
    """Which a worker does to a connection that brings nothing, while its jobs run on."""
    first, second = messages(2, group="a")
    await queue.enqueue([first, second])
    held = await one(queue)
    await queue.close()
    await queue.open()
    assert await nothing(queue)
    assert list(await queue.extend([held], LOCK)) == [LeaseState.KEPT]
    assert not await queue.complete([done(held)])
    assert (await one(queue)).job_id == second.job_id


async def test_closing_ends_the_thread_once_nothing_is_out(grouped: SessionNamespace) -> None:
    before = set(threading.enumerate())
    queue = grouped.connect()
    await queue.open()
    await queue.enqueue([message(group="a")])
    held = await one(queue)
    [thread] = set(threading.enumerate()) - before
    await queue.close()
    assert thread.is_alive()
    twin = grouped.connect()
    await twin.open()
    assert not await twin.complete([done(held)])
    await twin.close()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


async def test_a_settlement_after_the_sessions_thread_has_ended_is_lost(
    grouped: SessionNamespace, another: AzureServiceBusQueue
) -> None:
    before = set(threading.enumerate())
    queue = grouped.connect()
    await queue.open()
    await queue.enqueue([message(group="a")])
    held = await one(queue)
    [thread] = set(threading.enumerate()) - before
    await queue.close()
    grouped.emulator.advance(LOCK * 1.1)
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert list(await another.extend([held], LOCK)) == [LeaseState.LOST]
    assert list(await another.complete([done(held)])) == [held]


# dead consumers

CONSUMER = """
import asyncio, sys, time
from datetime import timedelta
from jobbus.backends.azure_service_bus import AzureServiceBusQueue

async def main():
    queue = AzureServiceBusQueue(sys.argv[1], queue_prefix=sys.argv[2], sessions=True)
    await queue.open()
    minute = timedelta(minutes=1)
    [held] = await queue.receive("default", limit=1, wait=minute, lease=minute)
    print(held.job_id, held.attempt, flush=True)
    time.sleep(600)

asyncio.run(main())
"""


async def test_a_consumer_that_is_killed_is_counted_and_the_next_goes_on_in_order(
    grouped: SessionNamespace, queue: AzureServiceBusQueue
) -> None:
    """The broker counts no delivery for a session whose link ends."""
    first, second = messages(2, group="a", max_crashes=2)
    await queue.enqueue([first, second])
    for attempt in (1, 2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONSUMER),
            *(grouped.emulator.connection_string, grouped.prefix),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                told = await process.stdout.readline()
            assert told.decode().split() == [first.job_id, str(attempt)]
        finally:
            process.kill()
            await process.wait()
    held = await one(queue)
    assert (held.job_id, held.attempt, held.crashes) == (second.job_id, 1, 0)
    [(reason, text)] = grouped.emulator.dead_letters(grouped.default)
    assert reason == "poison_crash"
    assert text.startswith("2 workers died")


async def test_what_is_no_message_of_ours_does_not_stop_its_session(
    grouped: SessionNamespace, queue: AzureServiceBusQueue
) -> None:
    ours = message(group="a")
    client = ServiceBusClient.from_connection_string(grouped.emulator.connection_string)
    async with client, client.get_queue_sender(grouped.default) as sender:
        await sender.send_messages(ServiceBusMessage(b"\xff\x00", session_id="a"))
    await queue.enqueue([ours])
    assert (await one(queue)).job_id == ours.job_id
    [(reason, _)] = grouped.emulator.dead_letters(grouped.default)
    assert reason == "undecodable"


async def test_a_dead_letter_lets_its_group_go_on(
    grouped: SessionNamespace, queue: AzureServiceBusQueue
) -> None:
    first, second = messages(2, group="a")
    await queue.enqueue([first, second])
    assert not await queue.dead_letter([dead(await one(queue))])
    assert (await one(queue)).job_id == second.job_id
    assert [reason for reason, _ in grouped.emulator.dead_letters(grouped.default)] == [
        "ValueError"
    ]


async def test_the_depth_is_counted_over_all_sessions(queue: AzureServiceBusQueue) -> None:
    later = message(group="a", delay=LOCK)
    await queue.enqueue([*messages(2, group="a"), *messages(3), later])
    assert not await queue.dead_letter([dead(await one(queue))])
    depth = await queue.get_queue_depth("default")
    assert (depth.ready, depth.delayed, depth.dead) == (4, 1, 1)
    assert depth.oldest_age is not None


async def test_a_session_that_has_been_used_up_leaves_no_state_behind(
    grouped: SessionNamespace, queue: AzureServiceBusQueue
) -> None:
    await queue.enqueue([message(group="a")])
    assert not await queue.abandon([back(await one(queue))])
    assert not await queue.complete([done(await one(queue))])
    await queue.close()
    client = ServiceBusClient.from_connection_string(grouped.emulator.connection_string)
    async with client, client.get_queue_receiver(grouped.default, session_id="a") as session:
        assert await session.session.get_state() is None
