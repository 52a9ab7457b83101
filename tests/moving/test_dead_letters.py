"""The dead letters of a broker without a ledger move as what they are, and so do those to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiormq import spec

from jobbus.backends.amqp.topology import DELIVERY_LIMIT, Topology
from jobbus.errors import BackendUnavailable
from jobbus.job import JobState
from jobbus.message import DeadLetter, Message
from jobbus.services.move import Move, Scope
from jobbus.services.move_ends import StoreEnd
from jobbus.store import JobFilter
from jobbus.testing.histories import check_history
from jobbus.testing.make import back, dead, done, message, messages
from tests.backends.rabbitmq_broker import channel_to
from tests.flow.support import eventually
from tests.moving.brokers import ALL, FOREIGN, MINUTE, PATIENCE, SENDING, Place, ids_of, on

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
DEAD = frozenset({JobState.FAILED, JobState.TIMED_OUT})


async def buried(broker: Place, *some: Message, timed_out: bool = False) -> None:
    """Each of them failed at its first attempt, and for good."""
    await broker.queue.enqueue(some)
    for queue in sorted({one.queue for one in some}):
        held = await broker.receive(sum(one.queue == queue for one in some), queue)
        assert not await broker.queue.dead_letter([dead(one, timed_out=timed_out) for one in held])


@on(*ALL, "service-bus-sessions")
async def test_a_dead_letter_becomes_one_of_the_store_with_its_reason_and_can_be_redriven(
    broker: Place, new: StoreEnd
) -> None:
    sent = message(
        payload=b"\x00\xff", headers={"tenant": "7"}, max_attempts=8, tags=("a",), timeout=MINUTE
    )
    before = datetime.now(UTC) - timedelta(seconds=1)
    await broker.queue.enqueue([sent])
    [first] = await broker.receive()
    await broker.queue.abandon([back(first)])
    [second] = await broker.receive()
    await broker.queue.dead_letter([dead(second)])
    move = Move(broker.end, new)
    assert (await move.plan()).moving == {("default", JobState.FAILED): 1}
    assert (await move.once()).moved == 1
    assert (await move.plan()).drained
    job = await new.store.get(sent.job_id)
    assert job is not None
    assert (job.state, job.attempt, job.queue) == (JobState.FAILED, 2, "default")
    assert job.problem is not None
    assert (job.problem.kind, job.problem.message) == ("ValueError", "it broke")
    assert before < job.created_at < datetime.now(UTC)
    check_history(await new.store.history(sent.job_id), job)
    assert await new.store.redrive([sent.job_id]) == [sent.job_id]
    [again] = await new.store.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    assert again.attempt == 3
    assert (again.message.payload, again.message.headers) == (b"\x00\xff", {"tenant": "7"})
    assert (again.message.max_attempts, again.message.tags) == (8, ("a",))
    assert again.message.timeout == MINUTE
    check_history(await new.store.history(sent.job_id))


@on(*ALL, "service-bus-sessions")
async def test_what_ran_out_of_time_is_told_apart_and_moves_by_itself_if_only_that_was_asked_for(
    broker: Place, new: StoreEnd
) -> None:
    failed, late, waiting = message(), message(), message()
    await buried(broker, failed)
    await buried(broker, late, timed_out=True)
    await broker.queue.enqueue([waiting])
    only = Scope(states=frozenset({JobState.TIMED_OUT}))
    assert (await Move(broker.end, new, only).once()).moved == 1
    assert await new.store.counts() == {("default", JobState.TIMED_OUT): 1}
    assert (await Move(broker.end, new, Scope(states=DEAD)).once()).moved == 1
    assert ids_of(await broker.receive()) == {waiting.job_id}


@on(*ALL)
async def test_what_is_none_of_jobbuss_stays_and_is_counted(broker: Place, new: StoreEnd) -> None:
    sent = messages(3)
    await buried(broker, *sent)
    await broker.bury_foreign()
    move = Move(broker.end, new)
    assert (await move.plan()).moving == {("default", JobState.FAILED): 4}
    result = await move.once()
    assert result.moved == 3
    [((queue, why), number)] = result.apart.items()
    assert (queue, number) == ("default", 1)
    assert "no message of jobbus's" in why
    await broker.has_dead(1)
    plan = await move.plan()
    assert plan.drained
    assert any(note.startswith("1 among the dead letters") for note in plan.notes)
    assert (await move.once()).apart == result.apart


@on("rabbitmq", "sqs", "service-bus")
async def test_a_dead_letter_that_is_put_back_is_what_it_was(broker: Place) -> None:
    await buried(broker, message(), timed_out=True)
    await broker.bury_foreign()
    queue: Any = broker.queue
    seen = []
    for _ in range(2):
        letters: list[DeadLetter] = []
        while len(letters) < 2:
            letters += await queue.receive_dead("default", limit=5, wait=PATIENCE, lease=MINUTE)
        seen.append(
            sorted((a.problem.kind, a.timed_out, a.delivery.message.payload) for a in letters)
        )
        assert not await queue.abandon([back(one.delivery) for one in letters])
        await broker.has_dead(2)
    assert seen[0] == seen[1]
    assert [payload for *_, payload in seen[0] if payload != b"{}"] == [FOREIGN]


class Mortal:
    """A store whose mover dies as soon as the jobs have arrived, or before."""

    def __init__(self, inner: Any, *, before: bool) -> None:
        self._inner = inner
        self._before = before

    async def take_in(self, *given: Any, **named: Any) -> Any:
        if not self._before:
            await self._inner.take_in(*given, **named)
        raise BackendUnavailable("the mover was killed")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize(("kind", "before"), [("rabbitmq", True), *((kind, False) for kind in ALL)])
async def test_no_dead_letter_is_lost_or_doubled_if_the_mover_dies(
    broker: Place, new: StoreEnd, before: bool
) -> None:
    sent = messages(3)
    await buried(broker, *sent)
    mortal: Any = Mortal(new.store, before=before)
    with pytest.raises(BackendUnavailable, match="killed"):
        await Move(broker.end, StoreEnd(mortal, "new")).once()
    await broker.has_dead(3)
    await Move(broker.end, new).once()
    await broker.has_dead(0)
    page = await new.store.find(JobFilter(states=DEAD))
    assert {job.id for job in page.jobs} == {one.job_id for one in sent}
    assert {job.attempt for job in page.jobs} == {1}


@on("rabbitmq")
async def test_what_a_killed_mover_held_is_there_again(broker: Place, new: StoreEnd) -> None:
    """Its connection ends, and nothing else is said."""
    await buried(broker, *messages(3))
    killed = broker.connect()
    await killed.open()
    end = broker.end
    end.queue = killed
    where = JobFilter(queue="default", states=DEAD)
    assert len((await end.take_out(where, to="new", limit=10, after=None)).records) == 3
    await broker.has_dead(0)
    await killed.close()
    assert (await Move(broker.end, new).once()).moved == 3


@on("rabbitmq", "sqs", "service-bus")
async def test_more_dead_letters_than_one_page_move(broker: Place, new: StoreEnd) -> None:
    sent = messages(25)
    await buried(broker, *sent)
    where = JobFilter(queue="default", states=DEAD)
    end, after, found = broker.end, None, 0
    while True:
        taken = await end.take_out(where, to="new", limit=4, after=after)
        await new.store.take_in(taken.records, origin="old")
        await end.settle(taken.records, [])
        found, after = found + len(taken.records), taken.cursor
        if after is None:
            break
    assert found == 25
    await broker.has_dead(0)


@on("sqs", "sqs-fifo")
async def test_of_dead_letters_that_queues_share_only_those_of_the_named_queues_move(
    broker: Place, new: StoreEnd
) -> None:
    mine, other = message(), message(queue="mail")
    await buried(broker, mine, other)
    move = Move(broker.end, new)
    result = await move.once()
    assert result.moved == 1
    assert [(queue, number) for (queue, _), number in result.apart.items()] == [("default", 1)]
    assert "--queue" in next(iter(result.apart))[1]
    assert (await Move(broker.end, new, Scope(queues=("default", "mail"))).once()).moved == 1
    assert await new.store.counts() == {
        ("default", JobState.FAILED): 1,
        ("mail", JobState.FAILED): 1,
    }


@on("rabbitmq")
async def test_what_rabbitmq_itself_set_aside_moves_with_its_reason(
    broker: Place, new: StoreEnd
) -> None:
    """Also of a job that was delayed: the end of a delay is a death to RabbitMQ, too."""
    sent = message(max_crashes=DELIVERY_LIMIT, delay=timedelta(milliseconds=100))
    await broker.queue.enqueue([sent])
    url, prefix = broker.tool

    async def due() -> bool:
        return bool((await broker.queue.get_queue_depth("default")).ready)

    await eventually(due, "the job to fall due")
    async with channel_to(url) as channel:
        while True:
            found = await channel.basic_get(Topology(prefix).queue("default"))
            if not isinstance(found.delivery, spec.Basic.GetOk):
                break
            tag = found.delivery.delivery_tag
            assert tag is not None
            await channel.basic_reject(tag, requeue=True)
    await broker.has_dead(1)
    assert (await Move(broker.end, new).once()).moved == 1
    job = await new.store.get(sent.job_id)
    assert job is not None
    assert (job.state, job.attempt) == (JobState.FAILED, DELIVERY_LIMIT)
    assert job.problem is not None
    assert job.problem.kind == "delivery_limit"
    check_history(await new.store.history(sent.job_id), job)


@on("sqs", "service-bus")
async def test_what_the_broker_set_aside_after_too_many_deliveries_moves_with_its_reason(
    broker: Place, new: StoreEnd
) -> None:
    if broker.name == "sqs":
        client, urls = broker.tool
        arn = client.get_queue_attributes(QueueUrl=urls["dlq"], AttributeNames=["QueueArn"])
        policy = f'{{"deadLetterTargetArn":"{arn["Attributes"]["QueueArn"]}","maxReceiveCount":1}}'
        client.set_queue_attributes(QueueUrl=urls["default"], Attributes={"RedrivePolicy": policy})
    else:
        broker.tool.create_queue("strict", lock_duration=MINUTE, max_delivery_count=1)
    name = "default" if broker.name == "sqs" else "strict"
    sent = message(queue=name)
    await broker.queue.enqueue([sent])
    [held] = await broker.receive(queue=name)
    if broker.name == "sqs":
        client.change_message_visibility(
            QueueUrl=urls["default"], ReceiptHandle=held.receipt.handle, VisibilityTimeout=0
        )
        assert not await broker.queue.receive(name, limit=1, wait=timedelta(0), lease=MINUTE)
    else:
        broker.tool.advance(2 * MINUTE)
    assert (await Move(broker.end, new, Scope(queues=(name,))).once()).moved == 1
    job = await new.store.get(sent.job_id)
    assert job is not None
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.problem is not None
    kinds = {"sqs": "too_many_receives", "service-bus": "MaxDeliveryCountExceeded"}
    assert job.problem.kind == kinds[broker.name]


@on(*SENDING)
async def test_dead_letters_of_a_store_go_to_those_of_a_broker_and_come_home(
    broker: Place, old: StoreEnd
) -> None:
    await old.store.enqueue(messages(2))
    held = await old.store.receive("default", limit=2, wait=MINUTE, lease=MINUTE)
    await old.store.dead_letter([dead(held[0]), dead(held[1], timed_out=True)])
    before = {one.job_id: await old.store.history(one.job_id) for one in held}
    move = Move(old, broker.end)
    assert (await move.plan()).moving == {
        ("default", JobState.FAILED): 1,
        ("default", JobState.TIMED_OUT): 1,
    }
    assert (await move.once()).moved == 2
    await broker.has_dead(2)
    assert not await broker.queue.receive("default", limit=1, wait=timedelta(0), lease=MINUTE)
    assert (await move.roll_back()).moved == 2
    await broker.has_dead(0)
    for one in held:
        history = await old.store.history(one.job_id)
        assert list(history)[: len(before[one.job_id])] == list(before[one.job_id])
    assert await old.store.counts() == {
        ("default", JobState.FAILED): 1,
        ("default", JobState.TIMED_OUT): 1,
    }


@on("service-bus")
async def test_a_dead_letter_does_not_go_where_nobody_can_send_one(
    broker: Place, old: StoreEnd
) -> None:
    await old.store.enqueue([message()])
    [held] = await old.store.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    await old.store.dead_letter([dead(held)])
    result = await Move(old, broker.end).once()
    assert "delivered itself" in result.refused[held.job_id]
    assert await old.store.counts() == {("default", JobState.FAILED): 1}


@on(*ALL, "service-bus-sessions")
async def test_a_job_that_died_at_the_broker_comes_home_dead_with_its_past(
    broker: Place, old: StoreEnd
) -> None:
    sent = message(max_attempts=8)
    await old.store.enqueue([sent])
    [held] = await old.store.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    await old.store.abandon([back(held)])
    await old.store.expedite([sent.job_id])
    before = await old.store.history(sent.job_id)
    move = Move(old, broker.end)
    assert (await move.once()).moved == 1
    [again] = await broker.receive()
    await broker.queue.dead_letter([dead(again)])
    assert (await move.roll_back()).moved == 1
    job = await old.store.get(sent.job_id)
    assert job is not None
    assert (job.state, job.attempt) == (JobState.FAILED, 2)
    history = await old.store.history(sent.job_id)
    check_history(history, job)
    assert list(history)[: len(before)] == list(before)


@on("rabbitmq")
async def test_a_dead_letter_that_somebody_had_run_again_comes_home_alive(
    broker: Place, old: StoreEnd
) -> None:
    await old.store.enqueue([message()])
    [held] = await old.store.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    await old.store.dead_letter([dead(held)])
    move = Move(old, broker.end)
    assert (await move.once()).moved == 1
    url, prefix = broker.tool
    async with channel_to(url) as channel:  # what a shovel does
        found = await channel.basic_get(Topology(prefix).dead("default"), no_ack=True)
        await channel.basic_publish(
            found.body,
            routing_key=Topology(prefix).queue("default"),
            properties=found.header.properties,
            mandatory=True,
        )
    assert (await move.roll_back()).moved == 1
    [alive] = await old.store.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    assert alive.job_id == held.job_id
    assert not await old.store.complete([done(alive)])
