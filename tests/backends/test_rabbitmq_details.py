"""What the specification leaves to RabbitMQ: topology, foreign messages, lost channels, windows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from yarl import URL

from jobbus.backends.amqp import consuming, publishing
from jobbus.backends.amqp.envelope import HEADER, PROBLEM
from jobbus.backends.amqp.topology import DELIVERY_LIMIT, Topology
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    InvalidJob,
    Unsupported,
)
from jobbus.message import DEFAULT_QUEUE, NO_DELAY, Delivery, LeaseState
from jobbus.testing import message, messages
from jobbus.testing.make import back, dead, done
from tests.backends.rabbitmq_broker import channel_to, delete_all, delete_queue, new_prefix
from tests.services import RabbitMqServer

PATIENCE = timedelta(seconds=20)
MINUTE = timedelta(minutes=1)
SOON = timedelta(milliseconds=50)


@pytest.fixture
def prefix(rabbitmq_prefix: str) -> str:
    return rabbitmq_prefix


@pytest.fixture
def queue(rabbitmq_queue: RabbitMqQueue) -> RabbitMqQueue:
    return rabbitmq_queue


async def receive(
    queue: RabbitMqQueue, limit: int = 1, *, wait: timedelta = PATIENCE
) -> Sequence[Delivery]:
    return await queue.receive(DEFAULT_QUEUE, limit=limit, wait=wait, lease=MINUTE)


async def receive_all(queue: RabbitMqQueue, number: int) -> list[Delivery]:
    held: list[Delivery] = []
    while len(held) < number:
        came = await receive(queue, number - len(held))
        assert came, f"only {len(held)} of {number} came"
        held += came
    return held


async def buried(url: str, prefix: str) -> DeliveredMessage:
    """The one message among the dead letters, once it is there."""
    async with channel_to(url) as channel, asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            found = await channel.basic_get(Topology(prefix).dead(DEFAULT_QUEUE), no_ack=True)
            if isinstance(found.delivery, spec.Basic.GetOk):
                return found
            await asyncio.sleep(0.02)


def problem_told(found: DeliveredMessage) -> dict[str, Any]:
    """Why it is a dead letter."""
    told: dict[str, Any] = json.loads(str((found.header.properties.headers or {})[PROBLEM]))
    return told


async def publish(url: str, prefix: str, body: bytes, headers: dict[str, Any] | None) -> None:
    """What somebody else puts into the queue."""
    async with channel_to(url) as channel:
        await channel.basic_publish(
            body,
            routing_key=Topology(prefix).queue(DEFAULT_QUEUE),
            properties=spec.Basic.Properties(headers=headers, app_id="elsewhere"),
            mandatory=True,
        )


# what must exist


async def test_a_topology_that_may_not_be_made_must_be_there_when_the_queue_is_opened(
    rabbitmq_server: RabbitMqServer,
) -> None:
    fresh = new_prefix()
    queue = RabbitMqQueue(rabbitmq_server.url, queue_prefix=fresh, create_topology="never")
    with pytest.raises(ConfigurationError, match="jobbus doctor --create"):
        await queue.open()
    assert await queue.missing() == [f"{fresh}.delay.19", f"{fresh}.queue.default"]
    assert await queue.create() == [f"{fresh}.queue.default"]
    assert await queue.missing() == []
    await queue.open()
    await queue.enqueue([message()])
    with pytest.raises(BackendError, match="jobbus doctor --create"):
        await queue.enqueue([message(queue="mail")])
    await queue.close()
    await delete_all(rabbitmq_server.url, fresh)


async def test_a_message_to_a_queue_that_is_gone_is_an_error_and_the_next_one_makes_it(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    """RM-1."""
    await queue.enqueue([message()])
    await delete_queue(rabbitmq_server.url, Topology(prefix).queue(DEFAULT_QUEUE))
    with pytest.raises(BackendError, match="jobbus doctor --create"):
        await queue.enqueue([message()])
    await queue.enqueue([message()])
    assert await receive(queue)


async def test_a_consumer_whose_queue_is_deleted_says_so_and_comes_back(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    receiving = asyncio.create_task(receive(queue))
    await asyncio.sleep(SOON.total_seconds())
    await delete_queue(rabbitmq_server.url, Topology(prefix).queue(DEFAULT_QUEUE))
    with pytest.raises(BackendUnavailable):
        await receiving
    with pytest.raises(BackendError):
        await queue.enqueue([message()])
    await queue.enqueue([message()])
    assert await receive(queue)


async def test_a_queue_that_exists_with_other_arguments_is_told_as_that(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    async with channel_to(rabbitmq_server.url) as channel:
        await channel.queue_declare(Topology(prefix).queue("mail"), durable=True)
    with pytest.raises(ConfigurationError, match="exists with other arguments"):
        await queue.enqueue([message(queue="mail")])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"password": "s3cret-canary"}, "refuses user and password"),
        ({"path": "/no-such-vhost"}, "refuses this virtual host"),
    ],
)
async def test_what_the_broker_refuses_is_a_mistake_in_the_settings(
    rabbitmq_server: RabbitMqServer, change: dict[str, str], told: str
) -> None:
    url = URL(rabbitmq_server.url)
    url = url.with_password(change["password"]) if "password" in change else url
    url = url.with_path(change.get("path", url.path))
    queue = RabbitMqQueue(str(url))
    with pytest.raises(ConfigurationError, match=told) as caught:
        await queue.open()
    assert "canary" not in str(caught.value)


async def test_a_broker_that_is_not_there_is_unavailable() -> None:
    queue = RabbitMqQueue("amqp://127.0.0.1:1/")
    with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:1"):
        await queue.open()
    await queue.close()


# foreign messages


@pytest.mark.parametrize("headers", [None, {HEADER: "[[["}, {HEADER: 7}], ids=str)
async def test_a_message_of_somebody_elses_goes_to_the_dead_letters_as_it_is(
    rabbitmq_server: RabbitMqServer,
    queue: RabbitMqQueue,
    prefix: str,
    headers: dict[str, Any] | None,
) -> None:
    """D-17."""
    good = message()
    await queue.enqueue([good])
    await publish(rabbitmq_server.url, prefix, b"\x00\xffnot ours", headers)
    await queue.enqueue([message()])
    assert (await receive_all(queue, 2))[0].job_id == good.job_id
    found = await buried(rabbitmq_server.url, prefix)
    assert found.body == b"\x00\xffnot ours"
    assert found.header.properties.app_id == "elsewhere"
    problem = problem_told(found)
    assert problem["kind"] == "undecodable"


async def test_a_foreign_message_cannot_have_copies_of_itself_sent_on(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    await queue.enqueue([message()])
    await queue.complete([done(each) for each in await receive(queue)])
    await publish(rabbitmq_server.url, prefix, b"x", {"CC": [Topology(prefix).queue("default")]})
    assert not await receive(queue, wait=timedelta(seconds=1))
    found = await buried(rabbitmq_server.url, prefix)
    assert "CC" not in (found.header.properties.headers or {})


async def test_a_dead_letter_keeps_its_payload_and_tells_why(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    sent = message(payload=b"work")
    await queue.enqueue([sent])
    await queue.dead_letter([dead(each) for each in await receive(queue)])
    found = await buried(rabbitmq_server.url, prefix)
    assert found.body == b"work"
    assert found.header.properties.correlation_id == sent.job_id
    assert problem_told(found)["message"] == "it broke"


async def test_more_beside_the_payload_than_a_frame_holds_is_refused_by_name(
    queue: RabbitMqQueue,
) -> None:
    with pytest.raises(InvalidJob, match="put them into the payload"):
        await queue.enqueue([message(metadata={"x": "y" * 40_000})])
    assert not await receive(queue, wait=NO_DELAY)


@pytest.mark.parametrize(
    "unwanted",
    [{"max_crashes": DELIVERY_LIMIT + 1}, {"timeout": timedelta(hours=30)}],
    ids=str,
)
async def test_what_the_broker_would_cut_short_is_refused(
    queue: RabbitMqQueue, unwanted: dict[str, Any]
) -> None:
    with pytest.raises(Unsupported):
        await queue.enqueue([message(**unwanted)])


async def test_a_length_limit_of_the_operators_is_told_as_a_full_queue(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    topology = Topology(prefix)
    await queue.enqueue([message()])
    await delete_queue(rabbitmq_server.url, topology.queue(DEFAULT_QUEUE))
    async with channel_to(rabbitmq_server.url) as channel:
        await channel.queue_declare(
            topology.queue(DEFAULT_QUEUE),
            durable=True,
            arguments={"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"},
        )
    with pytest.raises(BackendFull, match="a limit is reached"):
        await _enqueue_one_by_one(queue, 20)


async def _enqueue_one_by_one(queue: RabbitMqQueue, number: int) -> None:
    for _ in range(number):
        await queue.enqueue([message()])


# what is held, and what is not any more


async def test_what_a_broken_connection_held_is_lost_and_comes_again_as_a_crash(
    queue: RabbitMqQueue,
) -> None:
    """RM-8: never settled on another channel."""
    sent = message()
    await queue.enqueue([sent])
    twin = queue.separate()
    await twin.open()
    [held] = await receive(twin)
    assert await twin.extend([held], MINUTE) == [LeaseState.KEPT]
    await twin.close()
    assert await queue.extend([held], MINUTE) == [LeaseState.LOST]
    await twin.open()
    assert await twin.complete([done(held)]) == [held]
    assert await twin.abandon([back(held)]) == [held]
    assert await twin.dead_letter([dead(held)]) == [held]
    await twin.close()
    [again] = await receive(queue)
    assert (again.job_id, again.attempt, again.crashes) == (sent.job_id, 2, 1)


async def test_a_job_whose_connection_ends_too_often_goes_to_the_dead_letters(
    rabbitmq_server: RabbitMqServer, queue: RabbitMqQueue, prefix: str
) -> None:
    await queue.enqueue([message(max_crashes=2, payload=b"killer")])
    for _ in range(2):
        twin = queue.separate()
        await twin.open()
        assert await receive(twin)
        await twin.close()
    assert not await receive(queue, wait=timedelta(seconds=1))
    found = await buried(rabbitmq_server.url, prefix)
    assert found.body == b"killer"
    assert problem_told(found)["kind"] == "poison_crash"


async def test_completing_later_ones_first_leaves_the_earlier_ones_held(
    queue: RabbitMqQueue,
) -> None:
    await queue.enqueue(messages(6))
    held = await receive_all(queue, 6)
    await queue.complete([done(held[4])])
    await queue.complete([done(held[0]), done(held[5]), done(held[1])])
    twin = queue.separate()
    await twin.open()
    await queue.close()
    left = {each.job_id for each in await receive_all(twin, 2)}
    assert left == {held[2].job_id, held[3].job_id}
    assert not await receive(twin, wait=SOON)
    await twin.close()


async def test_receiving_more_at_once_is_no_crash_of_what_is_on_its_way(
    queue: RabbitMqQueue,
) -> None:
    """RM-12: the window grows under way; to cancel a consumer counts against what it brings."""
    sent = messages(60)
    twin = queue.separate()
    await twin.open()

    async def send() -> None:
        for each in sent:
            await twin.enqueue([each])

    sending = asyncio.create_task(send())
    held: list[Delivery] = []
    while len(held) < len(sent):
        for came in await asyncio.gather(*(receive(queue, 1, wait=SOON) for _ in range(5))):
            held += came
    await sending
    await twin.close()
    assert {(each.attempt, each.crashes) for each in held} == {(1, 0)}


async def test_a_receive_without_wait_finds_what_is_there(queue: RabbitMqQueue) -> None:
    """So that a burst, which ends when there is nothing, ends at the right time."""
    await queue.enqueue([message()])
    assert await receive(queue, wait=NO_DELAY)


async def test_what_was_fetched_and_taken_by_nobody_goes_back_uncounted_when_the_queue_closes(
    queue: RabbitMqQueue,
) -> None:
    twin = queue.separate()
    await twin.open()
    assert not await receive(twin, 5, wait=SOON)
    await queue.enqueue(messages(5))
    [taken] = await receive(twin, 1)
    await twin.complete([done(taken)])
    await twin.close()
    held = await receive_all(queue, 4)
    assert {(each.attempt, each.crashes) for each in held} == {(1, 0)}


async def test_what_nobody_takes_goes_to_somebody_else(
    queue: RabbitMqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RM-12."""
    monkeypatch.setattr(consuming, "_UNASKED_SECONDS", 0.1)
    assert not await receive(queue, 5, wait=SOON)
    await queue.enqueue(messages(5))
    [_] = await receive(queue, 1)
    twin = queue.separate()
    await twin.open()
    held = await receive_all(twin, 4)
    assert {(each.attempt, each.crashes) for each in held} == {(1, 0)}
    await twin.close()


async def test_a_short_delay_is_not_held_up_by_a_longer_one(queue: RabbitMqQueue) -> None:
    """RM-6."""
    late, early = message(delay=timedelta(seconds=60)), message(delay=timedelta(milliseconds=300))
    await queue.enqueue([late, early])
    assert [each.job_id for each in await receive(queue)] == [early.job_id]


async def test_an_event_loop_that_stood_still_for_too_long_counts_as_a_broken_connection(
    queue: RabbitMqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats stopped, so that the broker may have given the message to somebody else."""
    await queue.enqueue([message()])
    [held] = await receive(queue)
    link = held.receipt.consumer._link
    monkeypatch.setattr(link, "_patience", 0.0)
    assert await queue.separate().extend([held], MINUTE) == [LeaseState.LOST]
    assert await queue.complete([done(held)]) == [held]
    [again] = await receive(queue)
    assert again.job_id == held.job_id


async def test_a_confirm_that_does_not_come_is_unavailable(
    queue: RabbitMqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RM-11."""
    await queue.enqueue([message()])
    monkeypatch.setattr(publishing, "CONFIRM_SECONDS", 0.0)
    with pytest.raises(BackendUnavailable, match="it may be there or not"):
        await queue.enqueue([message()])
    monkeypatch.undo()
    await queue.enqueue([message()])


def test_a_queue_that_was_closed_serves_many_callers_in_the_next_event_loop(
    rabbitmq_server: RabbitMqServer, prefix: str
) -> None:
    """They wait for each other while consumers are made."""
    queue = RabbitMqQueue(rabbitmq_server.url, queue_prefix=prefix)

    async def use() -> None:
        await queue.open()
        looks = (
            queue.receive(name, limit=1, wait=NO_DELAY, lease=MINUTE) for name in ("mail", "video")
        )
        assert await asyncio.gather(*looks) == [[], []]
        await queue.close()

    for _ in range(2):
        asyncio.run(use())


async def test_a_first_receive_that_is_cancelled_costs_nobody_else_the_connection(
    queue: RabbitMqQueue,
) -> None:
    """It makes the queue, on the connection on which others send."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        for number in range(40):
            queue._broker._known.clear()
            receiving = asyncio.create_task(
                queue.receive("mail", limit=1, wait=PATIENCE, lease=MINUTE)
            )
            sending = asyncio.create_task(queue.enqueue([message()]))
            await asyncio.sleep(0.0003 * number)
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            await sending
            if (consumer := queue._broker.consumers.pop("mail", None)) is not None:
                await consumer.close()
