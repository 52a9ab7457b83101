"""The way from the ledger to the broker: what goes when, once, and whatever goes wrong."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from jobbus.errors import BackendUnavailable
from jobbus.job import JobState, Progress
from jobbus.message import CountsAs, Delivery, LeaseState, Priority
from jobbus.services.relay import keep_relaying, relay_once
from jobbus.store import HandOver, JobFilter
from jobbus.testing.make import after, back, dead, done, message, messages
from jobbus.tracked import TrackedQueue
from jobbus.tracked.bundles import share_of
from jobbus.tracked.relay import SENDING, TRAVELLING, Relay
from tests.flow.support import until
from tests.tracked.stage import PATIENCE, Stage, job, state, take, take_one, until_cancelled

SECOND = timedelta(seconds=1)
pytestmark = pytest.mark.asyncio


async def test_a_job_is_created_until_it_is_handed_over_and_then_queued(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    sent = message()
    await queue.enqueue([sent])
    assert await state(queue, sent) is JobState.CREATED
    assert await relay_once(queue, queue.relay(window=10)) == (1, 1)
    assert await state(queue, sent) is JobState.QUEUED
    assert stage.sent == [f"{sent.job_id}.0"]
    assert (await take_one(queue)).job_id == sent.job_id


async def test_only_the_jobs_name_travels(stage: Stage) -> None:
    """So that a broker's limits and its readers do not matter (SQ-1)."""
    queue = await stage.process()
    large = message(payload=b"s" * 900_000, headers={"token": "secret"}, tags=("mine",))
    await queue.enqueue([large])
    held = await take_one(queue)
    assert held.message.payload == large.payload
    [ticket] = stage.weather.accepted
    assert ticket.payload == b"{}"
    assert (dict(ticket.headers), ticket.tags) == ({"jobbus-ticket": "0"}, ())


async def test_a_broker_that_is_away_neither_blocks_nor_fails_an_enqueue(stage: Stage) -> None:
    stage.weather.down = True
    queue = await stage.process()
    sent = message()
    await queue.enqueue([sent])
    with pytest.raises(BackendUnavailable):
        await take(queue)
    assert await state(queue, sent) is JobState.CREATED
    stage.weather.down = False
    assert (await take_one(queue)).job_id == sent.job_id


async def test_an_outage_while_relaying_puts_the_jobs_back(stage: Stage) -> None:
    queue = await stage.process()
    await queue.enqueue(messages(3))
    relay = queue.relay(window=10)
    await relay_once(queue, relay)
    stage.weather.down = True
    more = messages(25)
    await queue.enqueue(more)
    with pytest.raises(BackendUnavailable):
        await relay_once(queue, queue.relay(window=50))
    assert {await state(queue, one) for one in more} == {JobState.CREATED}
    assert (await queue.get_queue_depth("default")).ready == 28


async def test_a_rolled_back_transaction_leaves_nothing(stage: Stage) -> None:
    queue = await stage.process()
    sent = message()
    connection = sqlite3.connect(stage.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    await queue.enqueue([sent], connection=connection)
    connection.execute("ROLLBACK")
    connection.close()
    assert not await take(queue)
    assert await queue.get(sent.job_id) is None
    assert stage.sent == []


async def test_a_committed_job_arrives_although_the_broker_was_down(stage: Stage) -> None:
    queue = await stage.process()
    stage.weather.down = True
    sent = message()
    connection = sqlite3.connect(stage.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    await queue.enqueue([sent], connection=connection)
    connection.execute("COMMIT")
    connection.close()
    stage.weather.down = False
    assert (await take_one(queue)).job_id == sent.job_id


async def test_many_relays_hand_each_job_over_once(stage: Stage) -> None:
    queues = [await stage.process() for _ in range(4)]
    await queues[0].enqueue(messages(200))
    relays = [queue.relay(window=100) for queue in queues]
    for _ in range(3):
        await asyncio.gather(*(relay_once(*one) for one in zip(queues, relays, strict=True)))
    assert len(stage.sent) == 200
    assert set(Counter(stage.sent).values()) == {1}


async def test_what_the_broker_loses_is_handed_over_again(stage: Stage) -> None:
    queue = await stage.process()
    stage.weather.losing = 1
    sent = message()
    await queue.enqueue([sent])
    assert not await take(queue)
    assert await state(queue, sent) is JobState.QUEUED
    stage.pass_time(TRAVELLING - SECOND)
    assert not await take(queue)
    stage.pass_time(2 * SECOND)
    held = await take_one(queue)
    assert (held.job_id, held.attempt, held.crashes) == (sent.job_id, 1, 0)
    assert stage.sent == [f"{sent.job_id}.0"] * 2


async def test_a_message_that_was_believed_lost_and_comes_twice_starts_its_job_once(
    stage: Stage,
) -> None:
    queue = await stage.process(relays=False)
    sent = message()
    await queue.enqueue([sent])
    for _ in range(2):
        await relay_once(queue, queue.relay(window=10))
        stage.pass_time(TRAVELLING + SECOND)
    assert len(stage.sent) == 2
    held = await take_one(queue)
    assert not await take(queue)
    assert not await queue.complete([done(held)])
    assert not await take(queue)


async def test_a_relay_that_dies_before_it_sends_costs_half_a_minute(stage: Stage) -> None:
    queue = await stage.process()
    sent = message()
    await queue.enqueue([sent])
    handed = await queue.ledger.hand_over("default", limit=1, within=SENDING)
    assert [one.job_id for one in handed.tickets] == [sent.job_id]
    assert not await take(queue)
    stage.pass_time(SENDING + SECOND)
    assert (await take_one(queue)).job_id == sent.job_id


async def test_a_job_cancelled_before_its_message_comes_never_runs(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    sent = message()
    await queue.enqueue([sent])
    await relay_once(queue, queue.relay(window=10))
    await queue.cancel([sent.job_id])
    assert not await take(queue)
    assert await state(queue, sent) is JobState.CANCELLED
    assert await stage.at_broker() == 0, "its message is spent"


@pytest.mark.parametrize("when", ["before it is handed over", "while its message is on its way"])
async def test_a_job_of_a_paused_queue_waits(stage: Stage, when: str) -> None:
    queue = await stage.process(relays=False)
    relay = queue.relay(window=10)
    sent = message()
    await queue.enqueue([sent])
    if when == "while its message is on its way":
        await relay_once(queue, relay)
    await queue.pause("default")
    await relay_once(queue, relay)
    assert not await take(queue)
    await queue.resume("default")
    await relay_once(queue, relay)
    assert (await take_one(queue)).job_id == sent.job_id
    assert len(stage.sent) == 1


async def test_a_message_received_as_its_queue_is_paused_goes_back_to_the_broker(
    stage: Stage,
) -> None:
    queue = await stage.process()
    sent = message()
    await queue.enqueue([sent])
    await queue._relay.step("default")
    await relay_once(queue, queue.relay(window=1))
    shares = await queue._shares("default", 1, PATIENCE, PATIENCE)
    await queue.pause("default")
    assert await queue._start(shares, "default", PATIENCE, 1, 1) == []
    await queue.resume("default")
    assert (await take_one(queue)).job_id == sent.job_id
    assert len(stage.sent) == 1


async def test_a_delay_of_two_hours_works_on_a_broker_that_knows_a_quarter(stage: Stage) -> None:
    queue = await stage.process()
    sent = message(delay=timedelta(hours=2))
    await queue.enqueue([sent])
    for _ in range(7):
        stage.pass_time(timedelta(minutes=17))
        assert not await take(queue)
    assert stage.sent == []
    stage.pass_time(timedelta(minutes=2))
    assert (await take_one(queue)).job_id == sent.job_id


async def test_a_retry_is_a_message_of_its_own_when_it_is_due(stage: Stage) -> None:
    """D-16: record the next run first, then acknowledge the old delivery."""
    queue = await stage.process()
    held = await _started(queue)
    await queue.abandon([back(held, timedelta(hours=1))])
    assert await state(queue, held) is JobState.RETRYING
    assert await stage.at_broker() == 0
    assert not await take(queue)
    stage.pass_time(timedelta(hours=1) + SECOND)
    again = await take_one(queue)
    assert (again.attempt, again.failures) == (2, 1)
    assert stage.sent == [f"{held.job_id}.0", f"{held.job_id}.1"]


async def test_dependencies_hold_before_the_broker(stage: Stage) -> None:
    queue = await stage.process()
    first, second = messages(2)
    await queue.enqueue([first, message(job_id=second.job_id, depends_on=after(first))])
    held = await take(queue)
    assert [one.job_id for one in held] == [first.job_id]
    assert stage.sent == [f"{first.job_id}.0"]
    await queue.complete([done(held[0])])
    assert (await take_one(queue)).job_id == second.job_id


async def test_the_most_urgent_jobs_of_a_backlog_are_next(stage: Stage) -> None:
    """RM-7 without lanes: no more is with the broker than somebody is about to take."""
    stage.weather.shuffled = True
    queue = await stage.process()
    await queue.enqueue(messages(100, priority=Priority.LOW))
    held = list(await take(queue, 5))
    assert len(held) == 5
    urgent = messages(3, priority=Priority.HIGH)
    await queue.enqueue(urgent)
    following = await take(queue, 5)
    assert {one.job_id for one in following} >= {one.job_id for one in urgent}
    assert [one.message.priority for one in following[:3]] == [Priority.HIGH] * 3
    assert len(stage.sent) == 10, "the backlog stays in the ledger"


async def test_one_receive_takes_as_many_as_it_asked_for_from_a_broker_of_small_batches(
    stage: Stage,
) -> None:
    queue = await stage.process()
    await queue.enqueue(messages(64))
    assert len(await take(queue, 64)) == 64


async def test_progress_and_cancellation_of_a_running_job_go_through_the_ledger(
    stage: Stage,
) -> None:
    queue = await stage.process()
    held = await _started(queue)
    await queue.record_progress([(held, Progress(percent=40.0, stage="half"))])
    shown = (await job(queue, held)).progress
    assert shown is not None
    assert shown.percent == 40.0
    await queue.cancel([held.job_id])
    assert await queue.extend([held], PATIENCE) == [LeaseState.CANCEL_REQUESTED]
    assert await queue.cancel_requested([held]) == {held.job_id}


async def test_a_lost_lease_at_the_broker_does_not_lose_the_job(stage: Stage) -> None:
    """The ledger's lease is renewed; the message comes again and is dropped at the gate."""
    queue = await stage.process()
    held = await _started(queue)
    await queue.ledger.extend([held], timedelta(hours=1))
    stage.pass_time(timedelta(minutes=30))
    other = await stage.process()
    assert not await take(other)
    assert await stage.at_broker() == 0
    assert await queue.extend([held], PATIENCE) == [LeaseState.KEPT]
    assert not await queue.complete([done(held)])


async def test_a_broker_that_hears_no_acknowledgement_runs_nothing_twice(stage: Stage) -> None:
    queue = await stage.process()
    stage.weather.deaf = True
    held = await _started(queue)
    assert not await queue.complete([done(held)])
    stage.weather.deaf = False
    stage.pass_time(timedelta(minutes=2))
    assert not await take(queue)
    assert (await job(queue, held)).attempt == 1


async def test_an_outage_while_settling_does_not_undo_what_was_recorded(stage: Stage) -> None:
    queue = await stage.process()
    held = await _started(queue)
    stage.weather.down = True
    assert not await queue.complete([done(held, b"1")])
    assert (await job(queue, held)).result == b"1"


async def test_messages_from_before_there_was_a_ledger_become_jobs_of_it(stage: Stage) -> None:
    queue = await stage.process()
    old = message(payload=b'{"from": "before"}')
    broker = queue.broker
    await broker.open()
    await broker.enqueue([old])
    held = await take_one(queue)
    assert (held.job_id, held.message.payload) == (old.job_id, old.payload)
    assert not await queue.complete([done(held)])
    assert await state(queue, old) is JobState.COMPLETED


async def test_a_message_that_can_be_no_job_goes_to_the_brokers_dead_letters(stage: Stage) -> None:
    queue = await stage.process()
    broker = queue.broker
    await broker.open()
    await broker.enqueue([message(job_id="not-a-uuid")])
    assert not await take(queue)
    assert (await queue.counts()) == {}
    assert await stage.at_broker() == 0


async def test_a_relay_of_its_own_serves_workers_that_do_not_relay(stage: Stage) -> None:
    worker, relay = await stage.process(relays=False), await stage.process()
    batch = messages(30)
    relaying = asyncio.create_task(keep_relaying(relay, window=4))
    await worker.enqueue(batch)
    seen: set[str] = set()
    while len(seen) < len(batch):
        held = await take(worker, 3, wait=PATIENCE)
        seen |= {one.job_id for one in held}
        await worker.complete([done(one) for one in held])
    await until_cancelled(relaying)
    assert set(Counter(stage.sent).values()) == {1}


async def test_a_relay_waits_an_outage_out(stage: Stage) -> None:
    worker, relay = await stage.process(relays=False), await stage.process()
    stage.weather.down = True
    relaying = asyncio.create_task(keep_relaying(relay))
    await worker.enqueue([message()])
    await until(lambda: stage.weather.refused, "a call that the broker refused")
    stage.weather.down = False
    await take_one(worker)
    await until_cancelled(relaying)


async def test_a_window_is_refilled_as_workers_empty_it(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    relay = queue.relay(window=3)
    await queue.enqueue(messages(10))
    assert await relay_once(queue, relay) == (3, 3)
    assert await relay_once(queue, relay) == (0, 3)
    assert len(await take(queue, 2)) == 2
    assert await relay_once(queue, relay) == (2, 3)


@pytest.mark.parametrize(("counted", "sent"), [(0.0, 1), (float("inf"), 0)])
async def test_a_message_that_nobody_gets_does_not_hold_up_others_for_ever(
    stage: Stage, counted: float, sent: int
) -> None:
    queue = await stage.process(relays=False)
    relay = Relay(queue.ledger, queue._open_broker, window=1, counted=counted)
    stage.weather.losing = 1
    await queue.enqueue(messages(2))
    assert (await relay.step("default")).sent == 1
    assert (await relay.step("default")).sent == sent


async def test_a_ledger_that_fails_while_it_refuses_costs_no_job_that_has_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await stage.process(relays=False)
    stage.weather.twice = True
    sent = message()
    await queue.enqueue([sent])
    await relay_once(queue, queue.relay(window=1))
    hand_over = queue.ledger.hand_over

    async def fail(name: str, *, limit: int, **rest: Any) -> HandOver:
        if "beside" not in rest:  # the gate's own question
            raise BackendUnavailable("the ledger is away")
        return await hand_over(name, limit=limit, **rest)

    monkeypatch.setattr(queue.ledger, "hand_over", fail)
    assert [one.job_id for one in await take(queue, 2)] == [sent.job_id]


async def test_a_closed_queue_does_not_come_back_to_the_broker(stage: Stage) -> None:
    queue = await stage.process()
    held = await _started(queue)
    await queue.close()
    await queue._acknowledge([share_of(held)])
    assert not queue._connected


async def test_an_outcome_is_recorded_and_then_acknowledged(stage: Stage) -> None:
    """D-7."""
    queue = await stage.process()
    completed, dead_letter = await _started(queue), await _started(queue)
    assert await stage.at_broker() == 2
    assert not await queue.complete([done(completed)])
    assert not await queue.dead_letter([dead(dead_letter)])
    assert await stage.at_broker() == 0


async def test_a_completion_in_a_transaction_is_acknowledged_when_it_is_told_again(
    stage: Stage,
) -> None:
    """D-13: until the transaction has committed, nothing has been recorded."""
    queue = await stage.process()
    held = await _started(queue)
    async with queue.transaction() as connection:
        assert not await queue.complete([done(held, b"1")], connection=connection)
    assert await stage.at_broker() == 1
    assert not await queue.complete([done(held, b"1")])
    assert await stage.at_broker() == 0


async def test_what_the_broker_has_is_counted_found_and_purged_as_queued(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    await queue.enqueue(messages(5))
    await relay_once(queue, queue.relay(window=3))
    assert (await queue.get_queue_depth("default")).ready == 5
    found = await queue.find(JobFilter(states=frozenset({JobState.QUEUED})))
    assert len(found.jobs) == 3
    assert await queue.purge("default") == 5
    assert not await take(queue)
    assert await stage.at_broker() == 0


async def test_a_start_deadline_holds_for_what_the_broker_has(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    sent = message(expires_at=stage.clock() + timedelta(minutes=1))
    await queue.enqueue([sent])
    await relay_once(queue, queue.relay(window=1))
    stage.pass_time(timedelta(seconds=61))
    assert not await take(queue)
    assert await state(queue, sent) is JobState.EXPIRED


async def test_a_message_of_an_earlier_attempt_starts_nothing(stage: Stage) -> None:
    """D-1: a job is started by the message of its next attempt only."""
    queue = await stage.process(relays=False)
    relay = queue.relay(window=5)
    stage.weather.twice = True
    await queue.enqueue([message()])
    await relay_once(queue, relay)
    [held] = await take(queue, 1)
    await queue.abandon([back(held)])
    assert not await take(queue), "the second copy of the first message"
    await relay_once(queue, relay)
    assert (await take_one(queue)).attempt == 2


async def test_a_job_handed_back_unstarted_is_sent_again(stage: Stage) -> None:
    queue = await stage.process()
    held = await _started(queue)
    await queue.abandon([back(held, counts_as=CountsAs.RELEASE)])
    again = await take_one(queue)
    assert (again.attempt, again.failures) == (2, 0)


async def _started(queue: TrackedQueue) -> Delivery:
    """A job in a worker's hands."""
    await queue.enqueue([message()])
    return await take_one(queue)
