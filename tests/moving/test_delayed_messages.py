"""What a broker without a ledger keeps until it is due moves sooner, where the broker lets it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from jobbus.errors import BackendUnavailable, Unsupported
from jobbus.job import JobState
from jobbus.message import NO_DELAY, Message
from jobbus.services.move import Move, Scope
from jobbus.services.move_ends import StoreEnd
from jobbus.testing.histories import check_history
from jobbus.testing.make import back, done, message
from tests.moving.brokers import MINUTE, Place, on
from tests.moving.test_dead_letters import Mortal

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
GIVING: Final = ("rabbitmq", "service-bus")
LATER: Final = timedelta(minutes=10)
SOON: Final = timedelta(seconds=2)


async def due(store: StoreEnd, one: Message) -> timedelta:
    """How long the job has to wait from now on."""
    job = await store.store.get(one.job_id)
    assert job is not None
    check_history(await store.store.history(one.job_id), job)
    return job.run_at - datetime.now(UTC)


@on(*GIVING)
async def test_a_delayed_job_moves_at_once_and_is_due_when_it_was(
    broker: Place, new: StoreEnd
) -> None:
    ready, delayed, tomorrow = message(), message(delay=LATER), message(delay=timedelta(hours=20))
    await broker.queue.enqueue([ready, delayed, tomorrow])
    move = Move(broker.end, new)
    plan = await move.plan()
    told = {(state, number) for (_, state), number in plan.moving.items()}
    if broker.name == "rabbitmq":
        assert told == {(JobState.QUEUED, 1)}
        assert any("delayed" in note and "cannot say" in note for note in plan.notes)
    else:
        assert told == {(JobState.QUEUED, 1), (JobState.SCHEDULED, 2)}
    assert (await move.once()).moved == 3
    assert (await move.plan()).drained
    assert await new.store.counts() == {
        ("default", JobState.QUEUED): 1,
        ("default", JobState.SCHEDULED): 2,
    }
    assert LATER - MINUTE < await due(new, delayed) < LATER
    assert timedelta(hours=19) < await due(new, tomorrow) < timedelta(hours=20)
    assert (await move.once()).moved == 0


@on(*GIVING)
async def test_a_job_in_its_back_off_waits_for_the_rest_of_it(broker: Place, new: StoreEnd) -> None:
    sent = message(max_attempts=8)
    await broker.queue.enqueue([sent])
    [held] = await broker.receive()
    await broker.queue.abandon([back(held, LATER)])
    assert (await Move(broker.end, new).once()).moved == 1
    job = await new.store.get(sent.job_id)
    assert job is not None
    assert (job.state, job.attempt, job.failures) == (JobState.RETRYING, 1, 1)
    assert LATER - MINUTE < await due(new, sent) < LATER
    await new.store.expedite([sent.job_id])
    [again] = await new.store.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    assert (again.attempt, again.failures) == (2, 1)


@on(*GIVING)
async def test_the_delayed_jobs_of_other_queues_stay_and_come_when_they_are_due(
    broker: Place, new: StoreEnd
) -> None:
    mine, other, soon = (
        message(delay=LATER),
        message(queue="mail", delay=LATER),
        message(queue="mail", delay=SOON),
    )
    await broker.queue.enqueue([mine, other, soon])
    sent_at = datetime.now(UTC)
    assert (await Move(broker.end, new).once()).moved == 1
    [held] = await broker.receive(queue="mail")
    assert held.job_id == soon.job_id
    assert datetime.now(UTC) - sent_at > SOON - timedelta(seconds=0.2)
    assert held.attempt == 1
    await broker.queue.complete([done(held)])
    assert (await Move(broker.end, new, Scope(queues=("mail",))).once()).moved == 1
    assert LATER - MINUTE < await due(new, other) < LATER


@on(*GIVING)
@pytest.mark.parametrize("before", [True, False])
async def test_a_delayed_job_is_neither_lost_nor_early_if_the_mover_dies(
    broker: Place, new: StoreEnd, before: bool
) -> None:
    sent = [message(delay=LATER) for _ in range(3)]
    await broker.queue.enqueue(sent)
    mortal: Any = Mortal(new.store, before=before)
    with pytest.raises(BackendUnavailable, match="killed"):
        await Move(broker.end, StoreEnd(mortal, "new")).once()
    assert not await broker.queue.receive("default", limit=1, wait=NO_DELAY, lease=MINUTE)
    assert (await Move(broker.end, new).once()).moved == 3
    assert (await Move(broker.end, new).once()).moved == 0
    assert await new.store.counts() == {("default", JobState.SCHEDULED): 3}
    for one in sent:
        assert LATER - MINUTE < await due(new, one) < LATER


@on("rabbitmq")
async def test_what_is_found_in_the_waits_and_not_handed_out_goes_back_with_the_rest(
    broker: Place, new: StoreEnd
) -> None:
    queue: Any = broker.queue
    sent = [message(delay=SOON) for _ in range(5)]
    await queue.enqueue(sent)
    [first] = await queue.receive_delayed("default", limit=1)
    assert not await queue.abandon([back(first)])
    assert len(await broker.receive(5)) == 5


@on("service-bus")
async def test_what_falls_due_within_a_minute_is_left_to_fall_due(
    broker: Place, new: StoreEnd
) -> None:
    """Nothing locks it: a worker could have it while it moves."""
    soon = message(delay=timedelta(seconds=30))
    await broker.queue.enqueue([soon])
    move = Move(broker.end, new)
    assert (await move.once()).moved == 0
    assert not (await move.plan()).drained
    broker.tool.advance(timedelta(seconds=31))
    assert (await move.once()).moved == 1


@on("service-bus")
async def test_what_was_taken_by_a_worker_meanwhile_is_not_cancelled(broker: Place) -> None:
    queue: Any = broker.queue
    await queue.enqueue([message(delay=LATER)])
    [held] = await queue.receive_delayed("default", limit=10)
    assert not await queue.receive_delayed("default", limit=10)
    broker.tool.advance(2 * LATER)
    assert await queue.complete([done(held)]) == [held]
    assert len(await broker.receive()) == 1


@on("sqs")
async def test_what_a_broker_does_not_give_out_early_stays_and_is_counted(
    broker: Place, new: StoreEnd
) -> None:
    queue: Any = broker.queue
    await queue.enqueue([message(delay=LATER)])
    move = Move(broker.end, new)
    assert (await move.once()).moved == 0
    plan = await move.plan()
    assert plan.staying == {("default", "delayed: the broker keeps it until it is due"): 1}
    assert not plan.drained
    with pytest.raises(Unsupported, match="15 minutes"):
        await queue.receive_delayed("default", limit=1)


@on(*GIVING)
async def test_a_job_that_waits_out_its_back_off_at_the_broker_comes_home_with_its_past(
    broker: Place, old: StoreEnd
) -> None:
    sent = message(max_attempts=8)
    await old.store.enqueue([sent])
    before = await old.store.history(sent.job_id)
    move = Move(old, broker.end)
    assert (await move.once()).moved == 1
    [held] = await broker.receive()
    await broker.queue.abandon([back(held, LATER)])
    assert (await move.roll_back()).moved == 1
    job = await old.store.get(sent.job_id)
    assert job is not None
    assert (job.state, job.attempt, job.failures) == (JobState.RETRYING, 1, 1)
    assert LATER - MINUTE < await due(old, sent) < LATER
    history = await old.store.history(sent.job_id)
    assert list(history)[: len(before)] == list(before)
