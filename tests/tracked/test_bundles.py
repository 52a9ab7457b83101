"""Where many jobs are wanted at once, one message names several, and each is still one job."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pytest

from jobbus.errors import BackendUnavailable
from jobbus.ids import new_id
from jobbus.job import JobState
from jobbus.message import Delivery, Message
from jobbus.services.relay import relay_once
from jobbus.store import Ticket
from jobbus.testing.make import back, dead, done, message, messages
from jobbus.tracked.bundles import TICKET, Share, message_of, share_of
from tests.tracked.stage import LEASE, PATIENCE, Stage, job, state, take

SECOND: Final = timedelta(seconds=1)
MANY: Final = 100
SOME_ID: Final = "01900000-0000-7000-8000-000000000000"
pytestmark = pytest.mark.asyncio


async def take_all(queue: Any, number: int, limit: int = MANY) -> list[Delivery]:
    """So many deliveries, however many calls it takes."""
    held: list[Delivery] = []
    while len(held) < number:
        some = await take(queue, limit, wait=PATIENCE)
        assert some, f"{len(held)} of {number} came"
        held += some
    return held


def ids(held: Sequence[Delivery | Message]) -> list[str]:
    return sorted(one.job_id for one in held)


async def test_a_hundred_jobs_that_are_wanted_at_once_take_ten_messages(stage: Stage) -> None:
    queue = await stage.process()
    batch = messages(MANY, payload=b"secret")
    await queue.enqueue(batch)
    held = await take_all(queue, MANY)
    assert ids(held) == ids(batch)
    assert {one.attempt for one in held} == {1}
    assert {one.message.payload for one in held} == {b"secret"}
    assert len(stage.weather.accepted) == 10
    assert not any(b"secret" in one.payload for one in stage.weather.accepted)


async def test_a_few_jobs_are_a_message_each(stage: Stage) -> None:
    """Other workers must be able to take them."""
    queue = await stage.process()
    batch = messages(39)
    await queue.enqueue(batch)
    await take_all(queue, 39, limit=39)
    assert sorted(stage.sent) == sorted(one.id for one in batch)


async def test_what_is_sent_for_other_processes_is_a_message_each(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    await queue.enqueue(messages(MANY))
    await relay_once(queue, queue.relay(window=MANY))
    assert len(stage.weather.accepted) == MANY


async def test_the_message_is_acknowledged_with_the_last_of_its_jobs(stage: Stage) -> None:
    queue = await stage.process()
    await queue.enqueue(messages(MANY))
    held = await take_all(queue, MANY)
    assert await stage.at_broker() == 10
    by_message: dict[int, list[Delivery]] = {}
    for one in held:
        by_message.setdefault(id(share_of(one).bundle), []).append(one)
    first, second, *rest = by_message.values()
    assert not await queue.complete([done(one) for one in first[:-1]])
    assert not await queue.complete([done(one) for one in first[:-1]])
    assert await stage.at_broker() == 10
    await queue.abandon([back(first[-1], LEASE)])
    assert await stage.at_broker() == 9
    await queue.dead_letter([dead(one) for one in second])
    assert await stage.at_broker() == 8
    for some in rest:
        await queue.complete([done(one) for one in some])
    assert await stage.at_broker() == 0


async def test_the_lease_of_a_message_is_kept_once_for_all_its_jobs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await stage.process()
    await queue.enqueue(messages(MANY))
    held = await take_all(queue, MANY)
    kept: list[Delivery] = []
    told = asyncio.Event()

    async def extend(some: Sequence[Delivery], lease: timedelta) -> list[Any]:
        kept.extend(some)
        told.set()
        return []

    monkeypatch.setattr(queue.broker, "extend", extend)
    await queue.extend(held, LEASE)
    await asyncio.wait_for(told.wait(), PATIENCE.total_seconds())
    assert len({id(one) for one in kept}) == len(kept) == 10


async def test_jobs_beyond_the_limit_go_back_for_other_workers(stage: Stage) -> None:
    large, small = await stage.process(), await stage.process(relays=False)
    batch = messages(MANY)
    await large.enqueue(batch)
    with large._relay.wanting("default", MANY):
        await large._relay.step("default")
    assert await stage.at_broker() == 10
    held = [*await take(small, 1), *await take(small, 2)]
    assert len(held) == 3
    held += await take_all(large, MANY - 3)
    assert ids(held) == ids(batch)
    assert {one.attempt for one in held} == {1}
    assert not await small.complete([done(one) for one in held[:3]])
    assert not await large.complete([done(one) for one in held[3:]])
    assert await stage.at_broker() == 0
    assert await large.counts() == {("default", JobState.COMPLETED): MANY}


async def test_what_is_wanted_when_a_queue_is_paused_waits_at_the_broker(stage: Stage) -> None:
    queue = await stage.process()
    await queue.enqueue(messages(MANY))
    with queue._relay.wanting("default", MANY):
        await queue._relay.step("default")
    receive, ledger = queue._bundles.receive, queue.ledger

    async def pause_first(*given: Any, **named: Any) -> list[Share]:
        tickets = await receive(*given, **named)
        await ledger.pause("default")
        return tickets

    queue._bundles.receive = pause_first  # type: ignore[method-assign]  # paused on the way
    assert not await take(queue, MANY)
    queue._bundles.receive = receive  # type: ignore[method-assign]  # as it was
    assert await stage.at_broker() == 10
    await queue.resume("default")
    assert len(await take_all(queue, MANY)) == MANY


async def test_a_worker_that_dies_before_the_gate_costs_no_job_and_no_attempt(
    stage: Stage,
) -> None:
    stage.weather.counting = True
    queue = await stage.process()
    batch = messages(MANY)
    await queue.enqueue(batch)
    with queue._relay.wanting("default", MANY):
        await queue._relay.step("default")
    doomed = queue.broker.separate()
    await doomed.open()
    taken = 0
    while taken < 10:
        some = await doomed.receive("default", limit=10, wait=PATIENCE, lease=LEASE)
        taken += len(some)
    await doomed.close()
    stage.pass_time(LEASE + SECOND)
    held = await take_all(queue, MANY)
    assert ids(held) == ids(batch)
    assert {(one.attempt, one.crashes) for one in held} == {(1, 0)}


async def test_doubles_do_not_count_against_the_limit(stage: Stage) -> None:
    """Else tickets of jobs that are wanted went back for them, behind what waits."""
    queue = await stage.process()
    batch = messages(MANY)
    await queue.enqueue(batch)
    with queue._relay.wanting("default", MANY):
        await queue._relay.step("default")
    sent = len(stage.sent)
    [first, *_] = shares = await queue._shares("default", MANY, PATIENCE, LEASE)
    doubled = [Share(first.job_id, first.attempts, first.bundle), *shares]
    assert await queue._within(doubled, len(shares)) == doubled
    assert len(stage.sent) == sent
    kept = await queue._within(doubled, len(shares) - 1)
    assert kept == doubled[:-1]
    assert len(stage.sent) == sent + 1


async def test_an_outage_half_way_puts_back_the_jobs_that_were_not_sent(stage: Stage) -> None:
    """The broker takes ten messages a call, and fails at the second call."""
    queue = await stage.process()
    batch = messages(MANY + 5)
    await queue.enqueue(batch)
    await queue._open_broker()
    enqueue, calls = queue.broker.enqueue, 0

    async def fail_later(some: Sequence[Message], **named: Any) -> Sequence[str]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise BackendUnavailable("the broker is away")
        return await enqueue(some, **named)

    queue.broker.enqueue = fail_later  # type: ignore[assignment, method-assign]  # away for a moment
    with pytest.raises(BackendUnavailable):
        await take(queue, MANY + 5)
    states = Counter([await state(queue, one) for one in batch])
    assert states == {JobState.QUEUED: MANY, JobState.CREATED: 5}
    assert ids(await take_all(queue, MANY + 5)) == ids(batch)


@pytest.mark.parametrize("trouble", ["twice", "shuffled", "deaf"])
async def test_whatever_the_broker_does_each_job_runs_once(stage: Stage, trouble: str) -> None:
    setattr(stage.weather, trouble, True)
    queues = [await stage.process() for _ in range(3)]
    batch = messages(300)
    await queues[0].enqueue(batch)
    chance, runs = random.Random(3), Counter[str]()

    async def work(queue: Any) -> None:
        while sum(runs.values()) < len(batch):
            for one in await take(queue, chance.choice([1, 7, 60, 150]), wait=SECOND / 20):
                assert one.attempt == 1
                runs[one.job_id] += 1
                assert not await queue.complete([done(one)])

    await asyncio.gather(*map(work, queues))
    assert runs == Counter(one.job_id for one in batch)


async def test_a_retry_of_a_job_that_came_in_a_bundle_is_its_second_attempt(stage: Stage) -> None:
    queue = await stage.process()
    await queue.enqueue(messages(MANY))
    held = await take_all(queue, MANY)
    await queue.abandon([back(one) for one in held])
    again = await take_all(queue, MANY)
    assert ids(again) == ids(held)
    assert {(one.attempt, one.failures) for one in again} == {(2, 1)}
    assert (await job(queue, again[0])).state is JobState.RUNNING


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"[[1, 2]]",
        b'[["not-an-id", 0]]',
        json.dumps([[SOME_ID, -1]]).encode(),
        json.dumps([[SOME_ID, 10**10]]).encode(),
        json.dumps([[SOME_ID, "0"]]).encode(),
        json.dumps([[SOME_ID, 0, 0]]).encode(),
        json.dumps([[SOME_ID, 0]] * 1001).encode(),
        b"[" * 60_000,
        json.dumps([[SOME_ID, 0]]).encode() + b" " * 70_000,
        json.dumps([[SOME_ID, 0], [SOME_ID, -1]]).encode(),
        b"\xff",
    ],
    ids=[
        "empty",
        "an object",
        "no entries",
        "numbers",
        "no id",
        "a negative number",
        "a large number",
        "a text for a number",
        "three values",
        "too many",
        "too deep",
        "too long",
        "one is wrong",
        "no text",
    ],  # the same in every process that collects them
)
async def test_a_bundle_that_names_no_jobs_is_dropped(stage: Stage, body: bytes) -> None:
    """Anybody may have written it."""
    queue = await stage.process()
    sent, broken = message(), message(payload=body, headers={TICKET: "several"})
    bundles = await queue._open_broker()
    await queue.broker.enqueue([broken])
    [held] = await bundles.receive("default", limit=9, wait=PATIENCE, lease=LEASE)
    assert (held.job_id, held.attempts) == (broken.job_id, 0)
    await bundles.give_back([held])
    await queue.enqueue([sent])
    assert ids(await take_all(queue, 1)) == [sent.job_id]
    assert await state(queue, sent) is JobState.RUNNING
    assert not await take(queue)
    assert await stage.at_broker() == 1


async def test_jobs_that_nobody_knows_start_nothing(stage: Stage) -> None:
    queue = await stage.process()
    await queue._open_broker()
    unknown = [Ticket(new_id(), 0, "render") for _ in range(3)]
    await queue.broker.enqueue([message_of("default", unknown)])
    assert not await take(queue)
    assert await stage.at_broker() == 0
