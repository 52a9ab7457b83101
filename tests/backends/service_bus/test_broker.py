"""What Service Bus does beyond the specification, and what becomes of it when it misbehaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient

from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    PayloadTooLarge,
)
from jobbus.job import Problem
from jobbus.message import CountsAs, DeadLetter, Delivery, LeaseState
from jobbus.testing.make import back, done, message, messages
from tests.backends.service_bus.conftest import Namespace
from tests.backends.service_bus.places import LOCK, SessionNamespace
from tests.emulators.servicebus import Emulator, Fault
from tests.emulators.servicebus.entity import MessageState

PATIENCE = timedelta(seconds=20)
SILENCE = timedelta(milliseconds=50)
SETTLE = "update-disposition"
"""The management operation by which a lock is settled without its link."""


async def one(queue: AzureServiceBusQueue, name: str = "default") -> Delivery:
    [delivery] = await queue.receive(name, limit=1, wait=PATIENCE, lease=LOCK)
    return delivery


async def test_a_dead_letter_says_why_to_every_tool_of_the_brokers(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    await queue.enqueue(messages(2))
    first = await one(queue)
    second = await one(queue)
    broken = Problem(kind="ValueError", message="no such \ud800 image " + "x" * 5000)
    assert not await queue.dead_letter([DeadLetter(delivery=first, problem=broken)])
    late = Problem(kind="TimeoutError", message="300 s")
    assert not await queue.dead_letter([DeadLetter(delivery=second, problem=late, timed_out=True)])
    client = ServiceBusClient.from_connection_string(emulator.connection_string)
    subqueue = ServiceBusSubQueue.DEAD_LETTER
    async with client, client.get_queue_receiver("default", sub_queue=subqueue) as dead:
        found = await dead.peek_messages(10)
    assert [each.dead_letter_reason for each in found] == ["ValueError", "timed_out"]
    assert str(found[0].dead_letter_error_description).startswith("no such ? image xxx")
    assert (await queue.get_queue_depth("default")).dead == 2


async def test_what_is_no_message_of_ours_goes_to_the_dead_letters_and_to_no_worker(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    ours = message()
    forged = ServiceBusMessage(
        b"{}",
        subject="example.work",
        correlation_id=ours.job_id,
        application_properties={
            "jobbus": 1,
            "max-attempts": 3,
            "max-crashes": 3,
            "headers": "[[[",
        },
    )
    client = ServiceBusClient.from_connection_string(emulator.connection_string)
    async with client, client.get_queue_sender("default") as sender:
        await sender.send_messages([ServiceBusMessage(b"\xff\x00 hello"), forged])
    await queue.enqueue([ours])
    assert (await one(queue)).job_id == ours.job_id
    assert [reason for reason, _ in emulator.dead_letters("default")] == ["undecodable"] * 2


async def test_a_job_whose_workers_keep_dying_goes_to_the_dead_letters(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    """Nobody reports a crash: SB-5 counts every lock that ran out."""
    await queue.enqueue([message(max_crashes=2)])
    assert (await one(queue)).crashes == 0
    emulator.advance(LOCK * 1.1)
    assert (await one(queue)).crashes == 1
    emulator.advance(LOCK * 1.1)
    assert not await queue.receive("default", limit=1, wait=SILENCE, lease=LOCK)
    [(reason, text)] = emulator.dead_letters("default")
    assert reason == "poison_crash"
    assert text.startswith("2 workers died")


async def test_each_attempt_keeps_the_accounts_of_those_before(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    await queue.enqueue([message(max_attempts=9, max_crashes=9)])
    for counts_as in (CountsAs.FAILURE, CountsAs.SNOOZE, CountsAs.CRASH, CountsAs.RELEASE):
        assert not await queue.abandon([back(await one(queue), counts_as=counts_as)])
    await one(queue)
    emulator.advance(LOCK * 1.1)
    last = await one(queue)
    assert (last.attempt, last.failures, last.crashes) == (6, 1, 2)


async def test_a_retry_gets_through_duplicate_detection_and_a_resend_does_not(
    namespace: Namespace, emulator: Emulator
) -> None:
    """SB-7: the message id is the attempt's, not the job's."""
    emulator.create_queue("once", lock_duration=LOCK, duplicate_window=timedelta(minutes=10))
    queue, sent = namespace.queue, message(queue="once")
    await queue.enqueue([sent])
    await queue.enqueue([sent])
    held = await one(queue, "once")
    assert not await queue.receive("once", limit=1, wait=SILENCE, lease=LOCK)
    assert not await queue.abandon([back(held)])
    assert (await one(queue, "once")).attempt == 2


async def test_a_copy_that_was_scheduled_under_a_lock_that_is_lost_is_called_back(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    await queue.enqueue([message()])
    held = await one(queue)
    emulator.inject(Fault(operation="settle", condition="com.microsoft:message-lock-lost"))
    assert list(await queue.abandon([back(held, timedelta(hours=1))])) == [held]
    assert emulator.count("default", MessageState.SCHEDULED) == 0


async def test_an_abandon_that_is_repeated_sends_no_second_copy(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    await queue.enqueue([message()])
    held = await one(queue)
    busy = "com.microsoft:server-busy"
    faults = [Fault(operation=name, condition=busy, times=4) for name in ("settle", SETTLE)]
    for fault in faults:
        emulator.inject(fault)
    with pytest.raises(BackendUnavailable):
        await queue.abandon([back(held)])
    assert emulator.count("default") == 2
    for fault in faults:
        fault.times = 0
    assert not await queue.abandon([back(held)])
    assert not await queue.abandon([back(held)])
    assert emulator.count("default") == 1


async def test_a_delivery_may_be_settled_after_every_connection_was_cut(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    """The lock is the message's, not the link's."""
    await queue.enqueue(messages(2))
    first, second = await one(queue), await one(queue)
    assert emulator.cut_connections() > 0
    assert list(await queue.extend([first, second], LOCK)) == [LeaseState.KEPT] * 2
    assert not await queue.complete([done(first), done(second)])
    assert emulator.count("default") == 0


async def test_a_delivery_may_be_settled_after_its_queue_was_closed_and_opened_again(
    namespace: Namespace, queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    """Which a worker does to a connection that brings nothing."""
    other = namespace.connect()
    await other.open()
    await other.enqueue([message()])
    held = await one(other)
    await other.close()
    await other.open()
    try:
        assert not await other.complete([done(held)])
    finally:
        await other.close()
    assert emulator.count("default") == 0


async def test_a_settlement_whose_answer_is_lost_is_made_all_the_same(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    await queue.enqueue([message()])
    held = await one(queue)
    emulator.inject(Fault(operation="settle", condition="cut-after"))
    await queue.complete([done(held)])
    assert emulator.count("default") == 0


async def test_a_receive_goes_on_after_a_cut_connection(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    receiving = asyncio.create_task(one(queue))
    await asyncio.sleep(0.1)  # it does not matter how far it has come
    emulator.cut_connections()
    try:
        await queue.enqueue([message()])
    except BackendUnavailable:
        await queue.enqueue([message()])  # the next call finds a new connection
    try:
        await receiving
    except BackendUnavailable:
        await one(queue)


async def test_links_that_were_detached_for_idleness_are_opened_again_without_an_error(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    """SB-2: Azure does so after ten minutes."""
    await queue.enqueue([message()])
    held = await one(queue)
    emulator.detach_idle_links_after(timedelta(minutes=10))
    try:
        emulator.advance(timedelta(minutes=11))
    finally:
        emulator.detach_idle_links_after(None)
    assert list(await queue.complete([done(held)])) == [held]
    await queue.enqueue([message()])
    assert sorted([(await one(queue)).attempt, (await one(queue)).attempt]) == [1, 2]


@pytest.mark.parametrize(
    ("condition", "kind", "words"),
    [
        ("com.microsoft:server-busy", BackendUnavailable, "sending to queue 'default' failed"),
        ("amqp:resource-limit-exceeded", BackendFull, "a quota is full"),
        ("amqp:unauthorized-access", BackendError, "check the access key or role"),
        ("com.microsoft:entity-disabled", BackendError, "the queue is disabled"),
    ],
)
async def test_what_the_broker_refuses_is_told_by_its_name(
    queue: AzureServiceBusQueue,
    emulator: Emulator,
    condition: str,
    kind: type[Exception],
    words: str,
) -> None:
    fault = Fault(operation="send", condition=condition, times=2)
    emulator.inject(fault)
    try:
        with pytest.raises(kind, match=words) as caught:
            await queue.enqueue([message()])
    finally:
        fault.times = 0
    assert type(caught.value) is kind
    assert "SAS_KEY_VALUE" not in str(caught.value)
    await queue.enqueue([message()])
    assert (await one(queue)).attempt == 1


async def test_a_renewal_that_the_broker_has_no_time_for_is_no_lost_lease(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    await queue.enqueue([message()])
    held = await one(queue)
    fault = Fault(operation="renew-lock", condition="com.microsoft:server-busy", times=2)
    emulator.inject(fault)
    with pytest.raises(BackendUnavailable):
        await queue.extend([held], LOCK)
    assert list(await queue.extend([held], LOCK)) == [LeaseState.KEPT]


async def test_a_link_that_the_client_library_has_used_up_is_replaced_in_good_time(
    namespace: Namespace, queue: AzureServiceBusQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for ever for the reply to its ten thousand and first request."""
    monkeypatch.setattr("jobbus.backends.service_bus.links.MOST_REQUESTS", 3)
    await queue.enqueue(messages(6))
    heartbeat = namespace.connect()
    await heartbeat.open()
    links = set()
    try:
        held = [await one(queue) for _ in range(6)]
        for each in held:
            assert list(await heartbeat.extend([each], LOCK)) == [LeaseState.KEPT]
            assert heartbeat._links is not None
            links |= set(heartbeat._links._by_token.values())
            assert not await queue.abandon([back(each, timedelta(hours=1))])
    finally:
        await heartbeat.close()
    assert len(links) == 3
    assert namespace.emulator.count("default", MessageState.SCHEDULED) == 6


async def test_a_missing_queue_is_told_when_it_is_opened(emulator: Emulator) -> None:
    queue = AzureServiceBusQueue(emulator.connection_string, queue_prefix="nowhere-")
    with pytest.raises(BackendError, match=r"'nowhere-default'.*jobbus doctor --create"):
        await queue.open()
    await queue.close()


async def test_an_unreachable_namespace_is_told_when_it_is_opened() -> None:
    stopped = Emulator()
    with stopped:
        pass
    queue = AzureServiceBusQueue(stopped.connection_string)
    with pytest.raises(BackendUnavailable, match="opening queue 'default' failed"):
        await queue.open()


async def test_a_token_that_is_refused_is_told_when_it_is_opened(emulator: Emulator) -> None:
    fault = Fault(operation="token", condition="InvalidSignature", times=5)
    emulator.inject(fault)
    try:
        with pytest.raises(BackendError, match="check the access key or role") as caught:
            await AzureServiceBusQueue(emulator.connection_string).open()
    finally:
        fault.times = 0
    assert "SAS_KEY_VALUE" not in str(caught.value)


async def test_headers_and_metadata_beyond_the_brokers_limit_are_refused_before_anything_is_sent(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    wordy = message(metadata={"text": "x" * 40_000})
    with pytest.raises(PayloadTooLarge, match="headers, tags and metadata"):
        await queue.enqueue([message(), wordy])
    assert emulator.count("default") == 0


async def test_more_than_a_batch_holds_is_sent_in_several(
    queue: AzureServiceBusQueue, emulator: Emulator
) -> None:
    batch = messages(9, payload=b"x" * 60_000)
    largest = message(payload=b"x" * queue.capabilities.max_payload)
    await queue.enqueue([*batch, largest, replace(message(), payload=b"last")])
    assert emulator.count("default") == 11


async def test_an_emulators_queues_are_not_ours_to_create(emulator: Emulator) -> None:
    with pytest.raises(ConfigurationError, match="its own configuration"):
        await AzureServiceBusQueue(emulator.connection_string).create()


async def test_sending_to_a_queue_that_requires_sessions_names_the_setting(
    grouped: SessionNamespace,
) -> None:
    queue = grouped.connect(sessions=False)
    await queue.open()
    try:
        with pytest.raises(ConfigurationError, match="SESSIONS=true"):
            await queue.enqueue([message()])
        with pytest.raises(ConfigurationError, match="SESSIONS=true"):
            await queue.receive("default", limit=1, wait=SILENCE, lease=LOCK)
    finally:
        await queue.close()


async def test_a_queue_without_sessions_is_told_when_it_is_opened_for_them(
    emulator: Emulator,
) -> None:
    queue = AzureServiceBusQueue(emulator.connection_string, sessions=True)
    with pytest.raises(ConfigurationError, match="has no sessions"):
        await queue.open()
