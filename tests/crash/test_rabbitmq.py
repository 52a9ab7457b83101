"""A RabbitMQ node that stops, dies, fills up or loses patience, under a queue or a worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from jobbus import JobBus
from jobbus.backends.amqp import consuming, publishing
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.errors import BackendError, BackendUnavailable
from jobbus.message import DEFAULT_QUEUE, LeaseState
from jobbus.testing import message, messages
from jobbus.testing.make import done
from tests.backends.rabbitmq_broker import new_prefix
from tests.flow.support import PLAIN, SECOND, at_work, eventually, until
from tests.services import RabbitMqServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def queue(owned_rabbitmq: RabbitMqServer) -> AsyncIterator[RabbitMqQueue]:
    """A queue of its own on the node that it may take down; running."""
    await asyncio.to_thread(owned_rabbitmq.own().start)
    queue = RabbitMqQueue(owned_rabbitmq.url, queue_prefix=new_prefix())
    await queue.open()
    yield queue
    await queue.close()


async def control(server: RabbitMqServer, *command: str) -> None:
    await asyncio.to_thread(server.own().control, *command)


async def enqueue_surely(queue: RabbitMqQueue) -> str:
    """Enqueue one message, over an outage."""
    one = message()

    async def attempt() -> bool:
        try:
            await queue.enqueue([one])
        except BackendUnavailable:
            return False
        return True

    await eventually(attempt, "an enqueue")
    return one.job_id


async def test_a_worker_goes_on_by_itself_after_its_broker_was_stopped_and_started(
    owned_rabbitmq: RabbitMqServer, queue: RabbitMqQueue
) -> None:
    """RM-10: consumers that look alive and receive nothing are the classic."""
    bus = JobBus(PLAIN, queue=queue)
    seen: list[int] = []

    @bus.job
    async def note(number: int) -> None:
        seen.append(number)

    producer = queue.separate()
    await producer.open()
    async with at_work(bus):
        await producer.enqueue([note.message(1)])
        await until(lambda: 1 in seen)
        await control(owned_rabbitmq, "stop_app")
        with pytest.raises(BackendUnavailable):
            await producer.enqueue([note.message(2)])
        await control(owned_rabbitmq, "start_app")

        async def enqueued() -> bool:
            try:
                await producer.enqueue([note.message(3)])
            except BackendUnavailable:
                return False
            return True

        await eventually(enqueued, "an enqueue after the outage")
        await until(lambda: 3 in seen, "a job after the outage")
    await producer.close()


async def test_a_killed_broker_loses_nothing_that_it_confirmed(
    owned_rabbitmq: RabbitMqServer, queue: RabbitMqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RM-1."""
    await queue.create()
    # RabbitMQ writes down late which queues there are: one that was made a moment before its only
    # node is killed is gone, with all that is in it.
    await control(owned_rabbitmq, "stop_app")
    await control(owned_rabbitmq, "start_app")
    await enqueue_surely(queue)
    batch = messages(50)
    await queue.enqueue(batch)
    [held] = await queue.receive(DEFAULT_QUEUE, limit=1, wait=MINUTE, lease=MINUTE)
    monkeypatch.setattr(consuming, "CALL_SECONDS", 2)
    owned_rabbitmq.own().kill()

    async def lost() -> bool:
        return await queue.separate().extend([held], MINUTE) == [LeaseState.LOST]

    await eventually(lost, "the end of the hold")
    assert await queue.complete([done(held)]) == [held]
    with pytest.raises(BackendError):
        await queue.enqueue([message()])
    await asyncio.to_thread(owned_rabbitmq.own().start)
    found: set[str] = set()
    async with asyncio.timeout(60):
        while not found >= {each.job_id for each in batch}:
            # Until the queue has its leader again, the broker does not answer.
            with contextlib.suppress(BackendUnavailable):
                found |= await take_all_there_is(queue)


async def test_a_broker_that_stands_still_is_unavailable_and_does_not_hold_up_the_end(
    owned_rabbitmq: RabbitMqServer, queue: RabbitMqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.enqueue([message()])
    assert await queue.receive(DEFAULT_QUEUE, limit=1, wait=MINUTE, lease=MINUTE)
    monkeypatch.setattr(publishing, "CONFIRM_SECONDS", 1.0)
    owned_rabbitmq.own().freeze()
    try:
        async with asyncio.timeout(30):
            with pytest.raises(BackendUnavailable, match="did not confirm"):
                # More than the sockets between us hold.
                await queue.enqueue(messages(100, payload=b"x" * 200_000))
            await queue.close()
    finally:
        owned_rabbitmq.own().thaw()


async def take_all_there_is(queue: RabbitMqQueue) -> set[str]:
    came = await queue.receive(DEFAULT_QUEUE, limit=50, wait=SECOND, lease=MINUTE)
    assert not await queue.complete([done(each) for each in came])
    return {each.job_id for each in came}


async def test_a_broker_without_memory_is_unavailable_to_publishers_and_not_to_consumers(
    owned_rabbitmq: RabbitMqServer, queue: RabbitMqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RM-11: a blocked connection reads nothing, so consumers have one of their own."""
    await queue.enqueue(messages(3))
    held = await queue.receive(DEFAULT_QUEUE, limit=3, wait=MINUTE, lease=MINUTE)
    monkeypatch.setattr(publishing, "CONFIRM_SECONDS", 1.0)
    await control(owned_rabbitmq, "set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.raises(BackendUnavailable, match="did not confirm"):
            await enqueue_until_refused(queue)
        assert not await queue.complete([done(each) for each in held])
    finally:
        await control(owned_rabbitmq, "set_vm_memory_high_watermark", "0.6")
    await enqueue_surely(queue)


async def enqueue_until_refused(queue: RabbitMqQueue) -> None:
    for _ in range(100):
        await queue.enqueue([message()])
        await asyncio.sleep(0.05)


async def test_a_message_held_beyond_the_servers_patience_is_lost_and_comes_again(
    owned_rabbitmq: RabbitMqServer, queue: RabbitMqQueue
) -> None:
    """RM-2."""
    await set_patience(owned_rabbitmq, milliseconds=1000, look_every=1000)
    try:
        await queue.enqueue([message()])
        [held] = await queue.receive(DEFAULT_QUEUE, limit=1, wait=MINUTE, lease=MINUTE)

        async def lost() -> bool:
            return await queue.extend([held], MINUTE) == [LeaseState.LOST]

        await eventually(lost, "the end of the hold")
        assert await queue.complete([done(held)]) == [held]
        [again] = await queue.receive(DEFAULT_QUEUE, limit=1, wait=MINUTE, lease=MINUTE)
        assert (again.job_id, again.attempt) == (held.job_id, 2)
        assert not await queue.complete([done(again)])
    finally:
        await set_patience(owned_rabbitmq, milliseconds=1_800_000, look_every=60_000)


async def set_patience(server: RabbitMqServer, *, milliseconds: int, look_every: int) -> None:
    """How long a message may be held, and how often channels that are opened then look."""
    for name, value in (("consumer_timeout", milliseconds), ("channel_tick_interval", look_every)):
        await control(server, "eval", f"application:set_env(rabbit, {name}, {value}).")
