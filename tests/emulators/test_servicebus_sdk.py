"""The emulator as the vendor's synchronous SDK sees it; its asyncio half is used by the backend."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient as AsyncClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.emulators.conftest import LOCK
from tests.emulators.servicebus import Emulator
from tests.emulators.servicebus.entity import MessageState

WAIT = 15.0
"""Seconds for what must come; never waited for in full."""
A_WHILE = 0.3
"""Seconds in which nothing may come."""


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(
        emulator.connection_string, retry_total=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
def shared(emulator: Emulator) -> str:
    """A queue for all tests, since the SDK takes half a second to open a link, and one to close."""
    emulator.create_queue("shared", lock_duration=LOCK, max_delivery_count=3)
    return "shared"


@pytest.fixture
def entity(shared: str, emulator: Emulator) -> str:
    """The same, empty."""
    emulator.purge(shared)
    return shared


@pytest.fixture(scope="module")
def sender(client: ServiceBusClient, shared: str) -> Iterator[ServiceBusSender]:
    with client.get_queue_sender(shared) as sender:
        yield sender


@pytest.fixture(scope="module")
def receiver(client: ServiceBusClient, shared: str) -> Iterator[ServiceBusReceiver]:
    with client.get_queue_receiver(shared) as receiver:
        yield receiver


def take(receiver: ServiceBusReceiver, number: int = 1) -> list[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    while len(found) < number:
        more = receiver.receive_messages(number - len(found), max_wait_time=WAIT)
        assert more, f"{len(found)} of {number} messages came"
        found += more
    return found


def test_a_message_arrives_as_it_was_sent_until_it_is_completed(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, entity: str, emulator: Emulator
) -> None:
    properties: dict[Any, Any] = {"text": "é", "number": 7, "half": 0.5, "yes": True}
    body = bytes(range(256)) * 800
    sent = ServiceBusMessage(
        body, message_id="m-1", subject="s", application_properties=dict(properties)
    )
    sender.send_messages(sent)
    [got] = take(receiver)
    assert b"".join(got.body) == body
    given: dict[Any, Any] = dict(got.application_properties or {})
    found = {name.decode(): value for name, value in given.items()}
    assert found == {**properties, "text": "é".encode()}
    assert (got.message_id, got.subject, got.delivery_count) == ("m-1", "s", 0)
    assert not receiver.receive_messages(1, max_wait_time=A_WHILE)
    receiver.complete_message(got)
    assert emulator.count(entity) == 0


def test_failed_deliveries_are_counted_and_the_last_one_dead_letters(
    sender: ServiceBusSender,
    receiver: ServiceBusReceiver,
    client: ServiceBusClient,
    entity: str,
    emulator: Emulator,
) -> None:
    sender.send_messages([ServiceBusMessage(b"x")])
    [first] = take(receiver)
    receiver.abandon_message(first)
    [second] = take(receiver)
    assert second.delivery_count == 1
    emulator.advance(LOCK * 1.1)
    [third] = take(receiver)
    assert third.delivery_count == 2
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(second)
    receiver.abandon_message(third)
    assert not receiver.receive_messages(1, max_wait_time=A_WHILE)
    with client.get_queue_receiver(entity, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
        [buried] = take(dead)
        assert buried.dead_letter_reason == "MaxDeliveryCountExceeded"
        dead.complete_message(buried)
    assert not emulator.dead_letters(entity)


def test_a_renewed_lock_outlives_its_first_term(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, entity: str, emulator: Emulator
) -> None:
    sender.send_messages([ServiceBusMessage(b"x")])
    [held] = take(receiver)
    before = held.locked_until_utc
    emulator.advance(LOCK / 2)
    assert before is not None
    assert receiver.renew_message_lock(held) > before
    emulator.advance(LOCK * 0.7)
    receiver.complete_message(held)
    assert emulator.count(entity) == 0


def test_a_lock_may_be_renewed_and_settled_through_another_receiver(
    sender: ServiceBusSender, client: ServiceBusClient, entity: str, emulator: Emulator
) -> None:
    """Of which the backend makes use: a lock is a message's, and not a link's."""
    sender.send_messages([ServiceBusMessage(b"x")])
    with client.get_queue_receiver(entity) as first, client.get_queue_receiver(entity) as second:
        [held] = take(first)
        second.renew_message_lock(held)
        second.complete_message(held)
    assert emulator.count(entity) == 0


def test_scheduled_messages_wait_can_be_cancelled_and_get_new_numbers(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, entity: str, emulator: Emulator
) -> None:
    later = emulator.now() + timedelta(minutes=5)
    numbers = sender.schedule_messages([ServiceBusMessage(b"a"), ServiceBusMessage(b"b")], later)
    sender.cancel_scheduled_messages(numbers[0])
    sender.send_messages(ServiceBusMessage(b"c", scheduled_enqueue_time_utc=later))
    with pytest.raises(ServiceBusError):
        sender.cancel_scheduled_messages(numbers[0])
    assert emulator.count(entity, MessageState.SCHEDULED) == 2
    assert not receiver.receive_messages(2, max_wait_time=A_WHILE)
    emulator.advance(timedelta(minutes=6))
    got = take(receiver, 2)
    assert sorted(b"".join(one.body) for one in got) == [b"b", b"c"]
    assert min(one.sequence_number or 0 for one in got) > max(numbers)


def test_deferred_messages_are_received_by_number_and_peeked_with_their_state(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, entity: str
) -> None:
    sender.send_messages([*(ServiceBusMessage(text) for text in (b"a", b"b"))])
    first, second = take(receiver, 2)
    receiver.defer_message(first)
    peeked = receiver.peek_messages(10, sequence_number=1)
    assert [(b"".join(one.body), int(one.state)) for one in peeked] == [(b"a", 1), (b"b", 0)]
    number = first.sequence_number
    assert number is not None
    [again] = receiver.receive_deferred_messages(number)
    receiver.complete_message(again)
    receiver.complete_message(second)
    assert not receiver.peek_messages(10, sequence_number=1)


def test_what_is_received_and_deleted_is_gone(
    sender: ServiceBusSender, client: ServiceBusClient, entity: str, emulator: Emulator
) -> None:
    sender.send_messages([ServiceBusMessage(b"x")])
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    with client.get_queue_receiver(entity, receive_mode=mode) as receiver:
        take(receiver)
        assert emulator.count(entity) == 0


def test_a_message_that_expires_is_dead_lettered(
    sender: ServiceBusSender, entity: str, emulator: Emulator
) -> None:
    sender.send_messages([ServiceBusMessage(b"x", time_to_live=timedelta(seconds=10))])
    emulator.advance(timedelta(seconds=11))
    assert emulator.count(entity) == 0
    assert len(emulator.dead_letters(entity)) == 1


def test_duplicates_are_dropped_within_their_window(
    client: ServiceBusClient, emulator: Emulator
) -> None:
    emulator.create_queue("once", duplicate_window=timedelta(minutes=10))
    with client.get_queue_sender("once") as sender:
        for expected in (1, 1):
            sender.send_messages(ServiceBusMessage(b"x", message_id="same"))
            assert emulator.count("once") == expected
        emulator.advance(timedelta(minutes=11))
        sender.send_messages(ServiceBusMessage(b"x", message_id="same"))
    assert emulator.count("once") == 2


def test_an_unknown_queue_is_not_found(client: ServiceBusClient) -> None:
    with pytest.raises(MessagingEntityNotFoundError), client.get_queue_sender("nowhere"):
        pass


def test_a_session_is_one_receivers_and_in_order(
    client: ServiceBusClient, emulator: Emulator
) -> None:
    emulator.create_queue("grouped", lock_duration=LOCK, requires_session=True)
    names = [(session, f"{session}{number}") for number in range(2) for session in ("a", "b")]
    with client.get_queue_sender("grouped") as sender:
        sender.send_messages([ServiceBusMessage(text, session_id=name) for name, text in names])
    with client.get_queue_receiver("grouped", session_id="a") as first:
        assert [str(one) for one in take(first, 2)] == ["a0", "a1"]
        with pytest.raises(SessionCannotBeLockedError):
            client.get_queue_receiver("grouped", session_id="a").__enter__()
        first.session.set_state(b"half way")
        assert first.session.get_state() == b"half way"
        until = first.session.locked_until_utc
        emulator.advance(LOCK / 2)
        assert until is not None
        assert first.session.renew_lock() > until
        nextone = client.get_queue_receiver("grouped", session_id=NEXT_AVAILABLE_SESSION)
        with nextone as second:
            assert second.session.session_id == "b"
            held = take(second, 2)
            second.complete_message(held[0])
            with pytest.raises(OperationTimeoutError):
                client.get_queue_receiver(
                    "grouped", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1
                ).__enter__()


async def test_a_session_whose_lock_ran_out_is_lost(emulator: Emulator) -> None:
    emulator.create_queue("fleeting", lock_duration=LOCK, requires_session=True)
    client = AsyncClient.from_connection_string(emulator.connection_string, retry_total=0)
    async with client, client.get_queue_sender("fleeting") as sender:
        await sender.send_messages(ServiceBusMessage(b"x", session_id="a"))
        receiver = client.get_queue_receiver("fleeting", session_id="a")
        async with receiver:
            [held] = await receiver.receive_messages(1, max_wait_time=WAIT)
            emulator.advance(LOCK * 1.1)
            with pytest.raises((SessionLockLostError, MessageLockLostError)):
                await receiver.complete_message(held)
        async with client.get_queue_receiver("fleeting", session_id="a") as another:
            [again] = await another.receive_messages(1, max_wait_time=WAIT)
            assert again.delivery_count == 1
            await another.complete_message(again)


async def test_a_session_that_is_closed_gives_its_messages_back_uncounted(
    emulator: Emulator,
) -> None:
    emulator.create_queue("closing", lock_duration=LOCK, requires_session=True)
    client = AsyncClient.from_connection_string(emulator.connection_string, retry_total=0)
    async with client, client.get_queue_sender("closing") as sender:
        await sender.send_messages([ServiceBusMessage(text, session_id="a") for text in "xy"])
        async with client.get_queue_receiver("closing", session_id="a") as receiver:
            await receiver.session.set_state(b"kept")
            assert len(await receiver.receive_messages(1, max_wait_time=WAIT)) == 1
        async with client.get_queue_receiver("closing", session_id="a") as another:
            assert await another.session.get_state() == b"kept"
            [again] = await another.receive_messages(1, max_wait_time=WAIT)
            assert (str(again), again.delivery_count) == ("x", 0)


def test_a_receiver_with_a_session_needs_a_queue_with_sessions_and_the_reverse(
    client: ServiceBusClient, emulator: Emulator, shared: str
) -> None:
    emulator.create_queue("only-sessions", lock_duration=LOCK, requires_session=True)
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"):
        client.get_queue_receiver(shared, session_id="a").__enter__()
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"):
        client.get_queue_receiver("only-sessions").__enter__()


async def test_a_session_obeys_the_link_that_has_locked_it_and_no_other(
    emulator: Emulator,
) -> None:
    emulator.create_queue("fenced", lock_duration=LOCK, requires_session=True)
    client = AsyncClient.from_connection_string(emulator.connection_string, retry_total=0)
    async with client, client.get_queue_receiver("fenced", session_id="a") as late:
        await late.session.set_state(b"mine")
        async with client.get_queue_receiver("fenced", session_id="b") as other:
            other._session_id = other.session._session_id = "a"
            for ask in (
                other.session.get_state(),
                other.session.set_state(b"stolen"),
                other.session.renew_lock(),
            ):
                with pytest.raises(SessionLockLostError):
                    await ask
        assert await late.session.get_state() == b"mine"


def test_several_processes_may_use_one_that_runs_by_itself() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.emulators.servicebus", "--create-missing"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            text = process.stdout.readline().strip()
            with ServiceBusClient.from_connection_string(text, retry_total=0) as client:
                with client.get_queue_sender("made-by-name") as sender:
                    sender.send_messages(ServiceBusMessage(b"x"))
                with client.get_queue_receiver("made-by-name") as receiver:
                    receiver.complete_message(take(receiver)[0])
        finally:
            process.terminate()
        assert process.wait(10) == 0


def test_stopping_it_ends_its_thread() -> None:
    emulator = Emulator()
    with emulator:
        port = emulator.port
    with pytest.raises(OSError, match="failed"):
        asyncio.run(asyncio.open_connection("127.0.0.1", port))
