"""Moving: jobs leave one store with all that is known of them, and go on in another.

The cases move jobs out of a store and into the same one, which is another one to itself meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from jobbus.ids import new_id
from jobbus.job import EventType, JobState, Progress
from jobbus.message import CountsAs, Message
from jobbus.movable import MOVABLE, JobRecord, Movable, TakenOut, record_from, record_text
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter, JobStore
from jobbus.testing.conformance.base import Suite
from jobbus.testing.histories import check_history
from jobbus.testing.make import after, back, dead, done, message, messages

WAITING = JobFilter(states=MOVABLE)


class MoveCases(Suite):
    """Nothing is lost, nothing runs twice, nothing is forgotten."""

    @pytest.fixture
    def ends(self, queue: BackgroundJobQueue) -> Movable:
        """The store as a place to move from and to."""
        if not isinstance(queue, Movable):
            pytest.skip("this store cannot be moved from or to")
        return queue

    async def leave(self, ends: Movable, where: JobFilter = WAITING) -> TakenOut:
        """What leaves, in one page."""
        return await ends.take_out(where, to="elsewhere", limit=1000)

    async def arrive(self, ends: Movable, records: Sequence[JobRecord]) -> None:
        """Let them all arrive, from what a journal would have kept of them."""
        kept = [record_from(record.job.id, record_text(record)) for record in records]
        assert not await ends.take_in(kept, origin="elsewhere")

    async def move(self, ends: Movable, where: JobFilter = WAITING) -> Sequence[JobRecord]:
        """Out and in again; what moved."""
        taken = await self.leave(ends, where)
        await self.arrive(ends, taken.records)
        return taken.records

    async def test_a_waiting_job_takes_along_all_that_was_asked_for_it(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        sent = message(
            "video.render",
            payload=b"\x00\xff",
            queue="video",
            headers={"tenant": "7"},
            priority=8,
            max_attempts=9,
            max_crashes=7,
            timeout=timedelta(minutes=3),
            expires_at=self.now(queue) + 10 * self.long_delay,
            parent_id=new_id(),
            unique_key="only one",
            tags=("a", "b"),
            metadata={"source": {"name": "é"}},
        )
        await queue.enqueue([sent])
        before = await self.job(store, sent)
        [record] = await self.move(ends)
        assert record.max_crashes == 7
        assert await self.job(store, sent) == before
        held = await self.receive_one(queue, name="video")
        assert (held.message.payload, held.message.max_crashes) == (b"\x00\xff", 7)

    async def test_the_history_goes_on_with_the_move(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        sent = message()
        held = await self.started(queue, sent)
        await store.record_progress([(held, Progress(percent=40, stage="half", message="so far"))])
        await queue.abandon([back(held)])
        await store.expedite([sent.job_id])
        told, words = await self.told(store, sent), await store.progress_history(sent.job_id)
        await self.move(ends)
        history = await store.history(sent.job_id)
        check_history(history, await self.job(store, sent))
        assert [event.type for event in history][: len(told)] == told
        [moved] = [event for event in history if event.type is EventType.MOVED]
        assert moved.reason == "from elsewhere"
        assert await store.progress_history(sent.job_id) == words
        again = await self.receive_one(queue)
        assert (again.attempt, again.failures) == (2, 1)
        await queue.complete([done(again)])
        check_history(await store.history(sent.job_id), await self.job(store, sent))

    async def told(self, store: JobStore, one: Message) -> list[EventType]:
        return [event.type for event in await store.history(one.job_id)]

    async def test_nobody_receives_what_was_taken_out(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        batch = messages(3)
        await queue.enqueue(batch)
        taken = await self.leave(ends)
        assert [record.job.id for record in taken.records] == [m.job_id for m in batch]
        await self.nothing_comes(queue)
        assert await store.get(batch[0].job_id) is None
        await self.arrive(ends, taken.records)
        held = await self.receive(queue, 3)
        assert sorted(one.job_id for one in held) == [m.job_id for m in batch]

    async def test_what_arrives_twice_is_one_job(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        sent = message()
        await queue.enqueue([sent])
        records = await self.move(ends)
        held = await self.receive_one(queue)
        await self.arrive(ends, records)
        assert (await self.job(store, sent)).state is JobState.RUNNING
        assert not await queue.complete([done(held, b"once")])
        await self.arrive(ends, records)
        job = await self.job(store, sent)
        assert (job.state, job.result) == (JobState.COMPLETED, b"once")
        await self.nothing_comes(queue)

    async def test_a_scheduled_job_keeps_its_due_time(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        sent = message(delay=self.long_delay)
        await queue.enqueue([sent])
        before = await self.job(store, sent)
        await self.move(ends)
        job = await self.job(store, sent)
        assert (job.state, job.run_at) == (JobState.SCHEDULED, before.run_at)
        await self.nothing_comes(queue)

    async def test_a_job_in_its_back_off_waits_for_the_rest_of_it(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, self.long_delay)])
        before = await self.job(store, held)
        await self.move(ends)
        assert await self.job(store, held) == before
        assert before.state is JobState.RETRYING
        await store.expedite([held.job_id])
        assert (await self.receive_one(queue)).attempt == 2

    async def test_crashes_and_failures_stay_counted(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        held = await self.started(queue, message(max_attempts=2))
        await queue.abandon([back(held, counts_as=CountsAs.CRASH)])
        await queue.abandon([back(await self.receive_one(queue))])
        await self.move(ends)
        again = await self.receive_one(queue)
        assert (again.attempt, again.failures, again.crashes) == (3, 1, 1)

    @pytest.mark.parametrize("timed_out", [False, True])
    async def test_a_dead_letter_stays_one_with_its_reason_and_can_be_redriven(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable, timed_out: bool
    ) -> None:
        held = await self.started(queue, message(unique_key="again"))
        await queue.dead_letter([dead(held, timed_out=timed_out)])
        before = await self.job(store, held)
        await self.move(ends)
        assert await self.job(store, held) == before
        depth = await queue.get_queue_depth(held.message.queue)
        assert depth.dead == 1
        await self.nothing_comes(queue)
        assert list(await store.redrive([held.job_id])) == [held.job_id]
        assert (await self.receive_one(queue)).attempt == 2
        check_history(await store.history(held.job_id), await self.job(store, held))

    async def test_a_completed_job_moves_with_its_result_when_asked_for(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held, b"\x00result")])
        before = await self.job(store, held)
        assert not await self.move(ends)
        assert len(await self.move(ends, JobFilter(states=frozenset({JobState.COMPLETED})))) == 1
        assert await self.job(store, held) == before
        check_history(await store.history(held.job_id), before)

    async def test_a_running_job_stays_and_what_waits_for_it_too(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        running = await self.started(queue, message())
        child = message(depends_on=after(running.job_id))
        grandchild = message(depends_on=after(child))
        other = message(delay=self.long_delay)
        await queue.enqueue([child, grandchild, other])
        everything = JobFilter(states=frozenset(JobState))
        taken = await self.leave(ends, everything)
        assert [record.job.id for record in taken.records] == [other.job_id]
        assert set(taken.staying) == {child.job_id, grandchild.job_id}
        assert running.job_id in taken.staying[child.job_id]
        assert not await queue.complete([done(running)])
        assert (await self.job(store, child)).state is JobState.QUEUED
        await self.arrive(ends, taken.records)

    async def test_what_waits_for_a_moved_job_is_released_by_its_end(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        await queue.enqueue([parent, child])
        assert len(await self.move(ends)) == 2
        assert (await self.job(store, child)).state is JobState.BLOCKED
        held = await self.receive_one(queue)
        assert held.job_id == parent.job_id
        await queue.complete([done(held)])
        held = await self.receive_one(queue)
        assert held.job_id == child.job_id
        check_history(await store.history(child.job_id), await self.job(store, child))

    async def test_a_job_that_waits_for_one_that_is_not_there_is_refused(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        grandchild = message(depends_on=after(child))
        await queue.enqueue([parent, child, grandchild])
        taken = await self.leave(ends)
        parted = [record for record in taken.records if record.job.id != parent.job_id]
        refused = await ends.take_in(parted, origin="elsewhere")
        assert set(refused) == {child.job_id, grandchild.job_id}
        assert parent.job_id in refused[child.job_id]
        await self.arrive(ends, taken.records)
        assert await store.count(JobFilter()) == 3

    async def test_a_dependency_that_ended_meanwhile_blocks_nobody(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        await queue.enqueue([parent, child])
        taken = await self.leave(ends)
        [first] = [record for record in taken.records if record.job.id == parent.job_id]
        await self.arrive(ends, [first])
        await queue.complete([done(await self.receive_one(queue))])
        await self.arrive(ends, taken.records)
        assert (await self.receive_one(queue)).job_id == child.job_id
        check_history(await store.history(child.job_id), await self.job(store, child))

    async def test_a_group_keeps_its_order_behind_what_is_there(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        old = messages(3, group="tenant")
        await queue.enqueue(old)
        taken = await self.leave(ends)
        new = message(group="tenant")
        await queue.enqueue([new])
        await self.arrive(ends, taken.records)
        order = []
        for _ in range(4):
            held = await self.receive_one(queue)
            await self.nothing_comes(queue)
            order.append(held.job_id)
            await queue.complete([done(held)])
        assert order == [new.job_id, *(m.job_id for m in old)]

    async def test_a_job_in_its_back_off_waits_behind_its_group(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        held = await self.started(queue, message(group="tenant"))
        await queue.abandon([back(held, self.long_delay)])
        taken = await self.leave(ends)
        new = message(group="tenant")
        await queue.enqueue([new])
        assert not await ends.take_in(taken.records, origin=None)
        job = await self.job(store, held)
        assert job.state is JobState.BLOCKED
        check_history(await store.history(held.job_id), job)
        first = await self.receive_one(queue)
        assert first.job_id == new.job_id
        await queue.complete([done(first)])
        job = await self.job(store, held)
        assert job.state in (JobState.SCHEDULED, JobState.RETRYING)
        check_history(await store.history(held.job_id), job)

    async def test_a_job_in_its_back_off_moves_with_its_group(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        held = await self.started(queue, message(group="tenant"))
        await queue.abandon([back(held, self.long_delay)])
        before = await self.job(store, held)
        await self.move(ends)
        job = await self.job(store, held)
        assert (job.run_at, job.failures) == (before.run_at, 1)
        check_history(await store.history(held.job_id), job)
        await store.expedite([held.job_id])
        assert (await self.receive_one(queue)).attempt == 2

    async def test_a_message_that_is_sent_again_after_its_job_left_follows_it_into_nothing(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        sent = message()
        await queue.enqueue([sent])
        first = await self.leave(ends)
        await queue.enqueue([sent])
        meanwhile = await self.leave(ends)
        assert (meanwhile.records, set(meanwhile.staying)) == ([], {sent.job_id})
        await ends.note_arrival([sent.job_id])
        again = await self.leave(ends)
        assert [record.job.id for record in again.records] == [sent.job_id]
        await self.arrive(ends, first.records)
        await self.arrive(ends, again.records)
        assert (await self.receive_one(queue)).job_id == sent.job_id
        await self.nothing_comes(queue)

    async def test_a_unique_key_that_is_held_refuses_the_job_which_can_come_home(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        first = message(unique_key="one")
        await queue.enqueue([first])
        taken = await self.leave(ends)
        second = message(unique_key="one")
        assert await queue.enqueue([second]) == [second.job_id]
        refused = await ends.take_in(taken.records, origin="elsewhere")
        assert second.job_id in refused[first.job_id]
        assert await store.get(first.job_id) is None
        [line] = await ends.departures(limit=10)
        assert (line.record, line.arrived) == (taken.records[0], False)
        await store.cancel([second.job_id])
        assert not await ends.take_in([line.record], origin=None)
        assert not await ends.departures(limit=10)
        history = await store.history(first.job_id)
        assert EventType.MOVED not in [event.type for event in history]
        check_history(history, await self.job(store, first))

    async def test_a_free_unique_key_is_held_again_by_the_job_that_came(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        first = message(unique_key="one")
        await queue.enqueue([first])
        await self.move(ends)
        assert await queue.enqueue([message(unique_key="one")]) == [first.job_id]

    async def test_the_journal_tells_what_left_and_what_has_arrived(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        batch = messages(5, queue="mail")
        await queue.enqueue(batch)
        ids = [m.job_id for m in batch]
        taken = await ends.take_out(WAITING, to="elsewhere", limit=3)
        rest = await ends.take_out(WAITING, to="elsewhere", limit=3, after=taken.cursor)
        assert [len(taken.records), len(rest.records), rest.cursor] == [3, 2, None]
        await ends.note_arrival(ids[:1])
        lines = await ends.departures(limit=2)
        assert [(line.record.job.id, line.to, line.arrived) for line in lines] == [
            (ids[0], "elsewhere", True),
            (ids[1], "elsewhere", False),
        ]
        behind = await ends.departures(limit=10, after=ids[1])
        assert [line.record.job.id for line in behind] == ids[2:]
        assert behind[0].record == taken.records[2]
        named = await ends.departures(limit=10, ids=[ids[4], new_id()])
        assert [line.record.job.id for line in named] == ids[4:]
        await ends.forget_departures(ids)
        assert not await ends.departures(limit=10)

    async def test_only_the_asked_for_queue_leaves(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        mine, other = message(queue="mail"), message(queue="video")
        await queue.enqueue([mine, other])
        taken = await self.leave(ends, replace(WAITING, queue="mail"))
        assert [record.job.id for record in taken.records] == [mine.job_id]
        assert (await self.job(store, other)).state is self.ready_state
        await self.arrive(ends, taken.records)

    async def test_a_worker_that_lost_its_lease_before_the_move_cannot_settle_it(
        self, queue: BackgroundJobQueue, store: JobStore, ends: Movable
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, counts_as=CountsAs.RELEASE)])
        await self.move(ends)
        assert await queue.complete([done(held, b"late")]) == [held]
        assert (await self.receive_one(queue)).attempt == 2
