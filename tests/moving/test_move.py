"""Jobs move between two backends that remember them, and back, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from jobbus.errors import BackendUnavailable, ConfigurationError, Unsupported
from jobbus.job import JobState
from jobbus.message import Delivery, Message
from jobbus.movable import JobRecord
from jobbus.services.move import BATCH, Move, Scope
from jobbus.services.move_broker import BrokerEnd
from jobbus.services.move_ends import StoreEnd, end_of
from jobbus.store import JobFilter
from jobbus.testing.histories import check_history
from jobbus.testing.make import after, back, dead, done, message, messages
from jobbus.testing.wrapping import QueueWrapper

MINUTE: Final = timedelta(seconds=60)


async def receive(end: StoreEnd | BrokerEnd, number: int = 1) -> list[Delivery]:
    queue = end.store if isinstance(end, StoreEnd) else end.queue
    held: list[Delivery] = []
    while len(held) < number:
        some = await queue.receive("default", limit=number - len(held), wait=MINUTE, lease=MINUTE)
        assert some, f"received {len(held)} of {number}"
        held += some
    return held


async def ids_at(end: StoreEnd) -> set[str]:
    page = await end.store.find(JobFilter(), limit=1000)
    return {job.id for job in page.jobs}


async def fill(end: StoreEnd, number: int = 3) -> set[str]:
    batch = messages(number)
    await end.store.enqueue(batch)
    return {one.job_id for one in batch}


async def test_all_that_waits_and_the_dead_letters_move(old: StoreEnd, new: StoreEnd) -> None:
    waiting, delayed = message(), message(delay=timedelta(days=1))
    child = message(depends_on=after(delayed))
    await old.store.enqueue([waiting, delayed, child])
    [held] = await receive(old)
    await old.store.dead_letter([dead(held)])
    result = await Move(old, new).once()
    assert (result.moved, result.staying, result.refused) == (3, {}, {})
    assert await ids_at(old) == set()
    counts = await new.store.counts()
    assert counts == {
        ("default", JobState.FAILED): 1,
        ("default", JobState.SCHEDULED): 1,
        ("default", JobState.BLOCKED): 1,
    }
    check_history(await new.store.history(held.job_id))


async def test_more_jobs_than_one_page_move(old: StoreEnd, new: StoreEnd) -> None:
    ids = await fill(old, 2 * BATCH + 1)
    assert (await Move(old, new).once()).moved == len(ids)
    assert await ids_at(new) == ids


async def test_a_running_job_ends_where_it_is_and_frees_those_that_wait_for_it(
    old: StoreEnd, new: StoreEnd
) -> None:
    parent = message()
    child = message(depends_on=after(parent))
    await old.store.enqueue([parent, child])
    [held] = await receive(old)
    move = Move(old, new)
    result = await move.once()
    assert (result.moved, set(result.staying)) == (0, {child.job_id})
    assert not (await move.plan()).drained
    await old.store.complete([done(held)])
    assert (await move.once()).moved == 1
    assert (await move.plan()).drained
    assert (await receive(new))[0].job_id == child.job_id


async def test_a_job_whose_parent_moved_first_follows_it(old: StoreEnd, new: StoreEnd) -> None:
    """It waits for two, of which one runs: the other one does not wait for it."""
    first, running = message(), message(priority=9)
    child = message(depends_on=after(first, running))
    await old.store.enqueue([first, running, child])
    [held] = await receive(old)
    assert held.job_id == running.job_id
    assert (await Move(old, new).once()).moved == 1
    [moved] = await receive(new)
    await new.store.complete([done(moved)])
    await old.store.complete([done(held)])
    assert (await Move(old, new).once()).moved == 1
    assert (await receive(new))[0].job_id == child.job_id


async def test_a_paused_queue_stays_paused(old: StoreEnd, new: StoreEnd) -> None:
    await old.store.pause("default", reason="the printer is out of paper")
    await fill(old)
    await Move(old, new).once()
    [status] = await new.store.queues()
    assert (status.paused, status.reason) == (True, "the printer is out of paper")


async def test_a_queue_that_is_resumed_at_the_target_is_not_paused_there_again(
    old: StoreEnd, new: StoreEnd
) -> None:
    await old.store.pause("default")
    move = Move(old, new)
    await move.once()
    await new.store.resume("default")
    await fill(old)
    await move.once()
    assert not (await new.store.queues())[0].paused


async def test_only_the_named_queues_and_states_move(old: StoreEnd, new: StoreEnd) -> None:
    mine, later, other = message(queue="mail"), message(queue="mail", delay=MINUTE), message()
    await old.store.enqueue([mine, later, other])
    scope = Scope(queues=("mail",), states=frozenset({JobState.SCHEDULED}))
    assert (await Move(old, new, scope).once()).moved == 1
    assert await ids_at(new) == {later.job_id}


async def test_a_plan_tells_and_changes_nothing(old: StoreEnd, new: StoreEnd) -> None:
    ids = await fill(old, 3)
    [held] = await receive(old)
    plan = await Move(old, new).plan()
    assert plan.moving == {("default", JobState.QUEUED): 2}
    assert plan.staying == {("default", "running: it ends where it is"): 1}
    assert await ids_at(old) == ids
    assert await old.store.complete([done(held)]) == []


async def test_the_counts_are_equal_after_a_move(old: StoreEnd, new: StoreEnd) -> None:
    await fill(old, 3)
    move = Move(old, new)
    await move.once()
    verdict = await move.verify()
    assert (verdict.moved, verdict.found, verdict.unsent, verdict.left) == (3, 3, 0, {})
    assert verdict.equal


async def test_a_job_that_is_gone_at_the_target_is_missed(old: StoreEnd, new: StoreEnd) -> None:
    ids = await fill(old, 3)
    move = Move(old, new)
    await move.once()
    lost = min(ids)
    await new.store.cancel([lost])
    await new.store.discard([lost])
    verdict = await move.verify()
    assert (verdict.equal, verdict.found, list(verdict.missing)) == (False, 2, [lost])


async def test_a_way_back_brings_what_has_not_started(old: StoreEnd, new: StoreEnd) -> None:
    ids = await fill(old, 3)
    move = Move(old, new)
    await move.once()
    [held] = await receive(new)
    of_its_own = message()
    await new.store.enqueue([of_its_own])
    result = await move.roll_back()
    assert (result.moved, set(result.staying)) == (2, {held.job_id})
    assert await ids_at(old) == ids - {held.job_id}
    assert await ids_at(new) == {held.job_id, of_its_own.job_id}
    for job in (await old.store.find(JobFilter())).jobs:
        check_history(await old.store.history(job.id), job)
    again = await move.once()
    assert again.moved == 2
    assert (await move.verify()).equal


async def test_finishing_forgets_the_way_back(old: StoreEnd, new: StoreEnd) -> None:
    await fill(old, 3)
    move = Move(old, new)
    await move.once()
    assert await move.finish() == 3
    assert (await move.roll_back()).moved == 0
    assert len(await ids_at(new)) == 3


async def test_a_job_with_a_key_that_is_held_stays_and_says_who_holds_it(
    old: StoreEnd, new: StoreEnd
) -> None:
    first, second = message(unique_key="one"), message(unique_key="one")
    await old.store.enqueue([first])
    await new.store.enqueue([second])
    result = await Move(old, new).once()
    assert second.job_id in result.refused[first.job_id]
    assert (result.moved, result.homeless) == (0, set())
    assert await ids_at(old) == {first.job_id}
    check_history(await old.store.history(first.job_id))


async def test_a_job_that_neither_place_takes_waits_in_the_journal(
    old: StoreEnd, new: StoreEnd
) -> None:
    first = message(unique_key="one")
    await old.store.enqueue([first])
    taken = await old.store.take_out(JobFilter(states=frozenset(JobState)), to="new", limit=9)
    rivals = [message(unique_key="one") for _ in range(2)]
    await old.store.enqueue(rivals[:1])
    await new.store.enqueue(rivals[1:])
    move = Move(old, new, Scope(queues=("mail",)))
    assert (await move.once()).homeless == {first.job_id}
    assert (await move.verify()).unsent == 1
    await new.store.cancel([rivals[1].job_id])
    assert (await move.once()).moved == 1
    assert taken.records[0].job.id in await ids_at(new)


class Faulty(QueueWrapper):
    """Fails once: before or after it has done what it was asked."""

    def __init__(self, inner: Any, verb: str, *, after: bool) -> None:
        super().__init__(inner)
        self._verb, self._after, self._armed = verb, after, True

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name != self._verb or not self._armed:
            return call

        async def fail(*given: Any, **named: Any) -> Any:
            self._armed = False
            if self._after:
                await call(*given, **named)
            raise BackendUnavailable("the line went dead")

        return fail


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize(
    ("side", "verb"), [("old", "take_out"), ("new", "take_in"), ("old", "note_arrival")]
)
async def test_a_move_that_broke_goes_on_and_no_job_is_twice_or_nowhere(
    old: StoreEnd, new: StoreEnd, side: str, verb: str, after: bool
) -> None:
    ids = await fill(old, 5)
    ends = {"old": old, "new": new}
    ends[side] = replace(ends[side], store=Faulty(ends[side].store, verb, after=after))
    move = Move(ends["old"], ends["new"])
    with pytest.raises(BackendUnavailable):
        await move.once()
    assert (await ids_at(old)).isdisjoint(await ids_at(new))
    # What arrived may have run before the mover is back.
    running = await receive(new) if await ids_at(new) else []
    await move.once()
    for delivery in running:
        assert not await new.store.complete([done(delivery)])
    assert await ids_at(new) == ids
    assert await ids_at(old) == set()
    assert (await move.verify()).equal
    for job in (await new.store.find(JobFilter())).jobs:
        check_history(await new.store.history(job.id), job)


async def test_a_way_back_finds_what_arrived_unnoticed(old: StoreEnd, new: StoreEnd) -> None:
    ids = await fill(old, 3)
    broken = replace(old, store=Faulty(old.store, "note_arrival", after=False))
    with pytest.raises(BackendUnavailable):
        await Move(broken, new).once()
    assert (await Move(old, new).roll_back()).moved == 3
    assert await ids_at(old) == ids
    assert await ids_at(new) == set()


async def test_a_way_back_finds_what_never_arrived(old: StoreEnd, new: StoreEnd) -> None:
    ids = await fill(old, 3)
    broken = replace(new, store=Faulty(new.store, "take_in", after=False))
    with pytest.raises(BackendUnavailable):
        await Move(old, broken).once()
    assert (await Move(old, new).roll_back()).moved == 3
    assert await ids_at(old) == ids
    assert (await Move(old, new).verify()).unsent == 0


async def test_a_ledger_of_a_broker_is_a_place_like_others(
    old: StoreEnd, tracked: StoreEnd
) -> None:
    ids = await fill(old, 3)
    await Move(old, tracked).once()
    [held] = await receive(tracked)
    assert held.job_id in ids
    await tracked.store.complete([done(held)])
    # Two are with the broker by now, as tickets that start nothing any more.
    assert (await Move(tracked, old).once()).moved == 2
    assert await ids_at(old) == ids - {held.job_id}
    await receive(old, 2)


def keyed(one: Message) -> Message:
    return replace(one, unique_key="k")


async def test_a_broker_without_a_ledger_gets_what_it_can_hold(
    old: StoreEnd, bare: BrokerEnd
) -> None:
    plain, soon, urgent = message(), message(delay=timedelta(minutes=5)), message(priority=9)
    unique, far = keyed(message()), message(delay=timedelta(days=3))
    await old.store.enqueue([plain, soon, urgent, unique, far])
    move = Move(old, bare)
    plan = await move.plan()
    result = await move.once()
    assert result.moved == sum(plan.moving.values()) == 2
    assert set(result.refused) == {urgent.job_id, unique.job_id, far.job_id}
    assert sum(plan.staying.values()) == 3
    assert await ids_at(old) == set(result.refused)
    assert (await receive(bare))[0].job_id == plain.job_id


async def test_a_dead_letter_does_not_go_to_a_broker_without_a_ledger(
    old: StoreEnd, bare: BrokerEnd
) -> None:
    await fill(old, 1)
    [held] = await receive(old)
    await old.store.dead_letter([dead(held)])
    result = await Move(old, bare).once()
    assert "dead letters" in result.refused[held.job_id]
    assert await old.store.redrive([held.job_id]) == [held.job_id]


async def test_jobs_come_from_a_broker_without_a_ledger(new: StoreEnd, bare: BrokerEnd) -> None:
    batch = messages(3, headers={"tenant": "7"}, max_attempts=8)
    await bare.queue.enqueue(batch)
    result = await Move(bare, new).once()
    assert result.moved == 3
    assert (await bare.queue.get_queue_depth("default")).ready == 0
    for delivery in await receive(new, 3):
        assert delivery.attempt == 1
        assert (delivery.message.headers, delivery.message.max_attempts) == ({"tenant": "7"}, 8)


class Choosy(QueueWrapper):
    """Takes all jobs but one."""

    def __init__(self, inner: Any, unwanted: str) -> None:
        super().__init__(inner)
        self._unwanted = unwanted

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        inner: Any = self.inner
        wanted = [record for record in records if record.job.id != self._unwanted]
        refused: dict[str, str] = await inner.take_in(wanted, origin=origin)
        return refused | {self._unwanted: "not this one"}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


async def test_what_is_refused_goes_back_to_its_broker(new: StoreEnd, bare: BrokerEnd) -> None:
    batch = messages(2)
    await bare.queue.enqueue(batch)
    unwanted = batch[0].job_id
    choosy: Any = Choosy(new.store, unwanted)
    result = await Move(bare, replace(new, store=choosy)).once()
    assert (result.moved, set(result.refused)) == (1, {unwanted})
    [again] = await receive(bare)
    assert again.job_id == unwanted


async def test_a_job_that_comes_back_from_a_broker_has_its_past_again(
    old: StoreEnd, bare: BrokerEnd
) -> None:
    await fill(old, 1)
    [held] = await receive(old)
    await old.store.abandon([back(held)])
    await old.store.expedite([held.job_id])
    before = await old.store.history(held.job_id)
    move = Move(old, bare)
    assert (await move.once()).moved == 1
    assert (await move.roll_back()).moved == 1
    history = await old.store.history(held.job_id)
    assert list(history)[: len(before)] == list(before)
    job = await old.store.get(held.job_id)
    assert job is not None
    assert (job.attempt, job.failures) == (1, 1)


async def test_tickets_are_not_taken_for_jobs(new: StoreEnd, tracked: StoreEnd) -> None:
    await fill(tracked, 3)
    await receive(tracked)
    broker: Any = tracked.store
    await broker.relay(window=3).step("default")
    with pytest.raises(ConfigurationError, match="--from-ledger"):
        await Move(BrokerEnd(broker.broker, "bare"), new).once()
    assert await ids_at(new) == set()


async def test_a_paused_queue_does_not_go_to_a_broker_that_cannot_pause(
    old: StoreEnd, bare: BrokerEnd
) -> None:
    ids = await fill(old)
    await old.store.pause("default")
    with pytest.raises(Unsupported, match="paused"):
        await Move(old, bare).once()
    assert await ids_at(old) == ids


async def test_a_move_from_a_broker_without_a_ledger_has_no_journal(
    new: StoreEnd, bare: BrokerEnd
) -> None:
    for act in (Move(bare, new).verify, Move(bare, new).roll_back, Move(bare, new).finish):
        with pytest.raises(Unsupported, match="other way"):
            await act()


async def test_a_store_that_nothing_can_leave_is_refused(old: StoreEnd) -> None:
    with pytest.raises(Unsupported, match="Movable"):
        end_of(QueueWrapper(old.store), "a wrapper")
