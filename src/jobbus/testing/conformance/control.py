"""Steering: cancel, pause, expedite, discard, prune and purge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest

from jobbus.ids import new_id
from jobbus.job import JobState
from jobbus.message import CountsAs, Delivery, LeaseState, Message
from jobbus.queue import BackgroundJobQueue
from jobbus.store import CancelOutcome, JobFilter, JobStore
from jobbus.testing.conformance.base import Suite, needs, where_leases_expire
from jobbus.testing.make import after, back, dead, done, message, messages, stopped

Ending = Callable[[Suite, BackgroundJobQueue, JobStore, Message], Awaitable[None]]


async def _complete(suite: Suite, queue: BackgroundJobQueue, _: JobStore, one: Message) -> None:
    await queue.complete([done(await suite.started(queue, one), b"result")])


async def _fail(suite: Suite, queue: BackgroundJobQueue, _: JobStore, one: Message) -> None:
    await queue.dead_letter([dead(await suite.started(queue, one))])


async def _time_out(suite: Suite, queue: BackgroundJobQueue, _: JobStore, one: Message) -> None:
    await queue.dead_letter([dead(await suite.started(queue, one), timed_out=True)])


async def _cancel(suite: Suite, queue: BackgroundJobQueue, store: JobStore, one: Message) -> None:
    await queue.enqueue([one])
    await store.cancel([one.job_id])


async def _stop(suite: Suite, queue: BackgroundJobQueue, store: JobStore, one: Message) -> None:
    held = await suite.started(queue, one)
    await store.cancel([one.job_id])
    await queue.complete([stopped(held)])


ENDINGS: dict[str, Ending] = {
    "completed": _complete,
    "failed": _fail,
    "timed_out": _time_out,
    "cancelled": _cancel,
    "cancelled while running": _stop,
}
"""Ways for a job to end, by the state that it ends in."""


UNKNOWN = "01890000-0000-7000-8000-000000000000"
"""The id of no job."""


class CancelCases(Suite):
    """At once while it waits; by asking while it runs; too late afterwards."""

    @pytest.mark.parametrize("how", ["ready", "scheduled", "retrying", "blocked"])
    async def test_a_waiting_job_is_cancelled_at_once(
        self, queue: BackgroundJobQueue, store: JobStore, how: str
    ) -> None:
        wanted = await self._waiting(queue, how)
        expected = self.ready_state if how == "ready" else how
        assert (await self.job(store, wanted)).state == expected
        answer = await store.cancel([wanted], reason="not needed")
        assert answer == {wanted: CancelOutcome.CANCELLED}
        job = await self.job(store, wanted)
        assert job.state is JobState.CANCELLED
        assert job.finished_at is not None
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)

    async def _waiting(self, queue: BackgroundJobQueue, how: str) -> str:
        if how == "ready":
            [job_id] = await queue.enqueue([message()])
        elif how == "scheduled":
            [job_id] = await queue.enqueue([message(delay=self.short_delay)])
        elif how == "retrying":
            held = await self.started(queue, message())
            await queue.abandon([back(held, self.short_delay)])
            job_id = held.job_id
        else:
            parent = message(delay=self.long_delay)
            _, job_id = await queue.enqueue([parent, message(depends_on=after(parent))])
        return job_id

    async def test_a_running_job_is_asked_to_stop(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        assert await store.cancel([held.job_id]) == {held.job_id: CancelOutcome.REQUESTED}
        job = await self.job(store, held)
        assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)

    @needs("extends_leases")
    async def test_a_worker_learns_of_a_cancellation_by_its_heartbeat(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(2))
        asked, other = await self.receive(queue, 2)
        await store.cancel([asked.job_id])
        states = await queue.extend([asked, other], self.long_lease)
        assert list(states) == [LeaseState.CANCEL_REQUESTED, LeaseState.KEPT]

    async def test_a_worker_can_ask_which_of_its_jobs_are_to_stop(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(3))
        held = await self.receive(queue, 3)
        assert await store.cancel_requested(held) == frozenset()
        await store.cancel([held[1].job_id])
        assert await store.cancel_requested(held) == {held[1].job_id}
        assert await store.cancel_requested([]) == frozenset()

    async def test_a_job_asked_to_stop_ends_as_cancelled_when_its_worker_says_so(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await store.cancel([held.job_id])
        assert not await queue.complete([stopped(held)])
        assert (await self.job(store, held)).state is JobState.CANCELLED

    @pytest.mark.parametrize("counts_as", list(CountsAs))
    async def test_a_job_asked_to_stop_is_not_tried_again(
        self, queue: BackgroundJobQueue, store: JobStore, counts_as: CountsAs
    ) -> None:
        held = await self.started(queue, message())
        await store.cancel([held.job_id])
        assert not await queue.abandon([back(held, counts_as=counts_as)])
        assert (await self.job(store, held)).state is JobState.CANCELLED
        await self.nothing_comes(queue)

    @where_leases_expire
    async def test_a_job_asked_to_stop_is_not_tried_again_when_its_worker_dies(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(), lease=self.short_lease)
        await store.cancel([held.job_id])
        await self.expire(queue)
        await store.recover()
        assert (await self.job(store, held)).state is JobState.CANCELLED
        await self.nothing_comes(queue)

    async def test_a_completion_that_comes_first_wins(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await store.cancel([held.job_id])
        assert not await queue.complete([done(held, b"done")])
        job = await self.job(store, held)
        assert (job.state, job.result) == (JobState.COMPLETED, b"done")

    @pytest.mark.parametrize("ending", sorted(ENDINGS))
    async def test_an_ended_job_is_too_late_to_cancel(
        self, queue: BackgroundJobQueue, store: JobStore, ending: str
    ) -> None:
        one = message()
        await ENDINGS[ending](self, queue, store, one)
        before = await self.job(store, one)
        assert await store.cancel([one.job_id]) == {one.job_id: CancelOutcome.FINISHED}
        assert await self.job(store, one) == before

    @pytest.mark.parametrize("job_id", [UNKNOWN, "42", "", "\x00"], ids=repr)
    async def test_an_unknown_job_is_not_found(
        self, queue: BackgroundJobQueue, store: JobStore, job_id: str
    ) -> None:
        assert await store.cancel([job_id]) == {job_id: CancelOutcome.NOT_FOUND}

    async def test_many_are_cancelled_in_one_call_and_each_is_answered(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        running = await self.started(queue, message())
        waiting = message()
        await queue.enqueue([waiting])
        unknown = new_id()
        assert await store.cancel([waiting.job_id, running.job_id, unknown]) == {
            waiting.job_id: CancelOutcome.CANCELLED,
            running.job_id: CancelOutcome.REQUESTED,
            unknown: CancelOutcome.NOT_FOUND,
        }

    async def test_of_a_cancellation_and_a_completion_at_once_one_wins(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(10))
        held = await self.receive(queue, 10)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(store.cancel([one.job_id])) for one in held]
            ended = [group.create_task(self._complete(queue, one)) for one in held]
        assert not any(one.result() for one in ended)
        for one, answer in zip(held, asked, strict=True):
            assert (await self.job(store, one)).state is JobState.COMPLETED
            outcome = answer.result()[one.job_id]
            assert outcome in (CancelOutcome.REQUESTED, CancelOutcome.FINISHED)

    async def _complete(self, queue: BackgroundJobQueue, held: Delivery) -> Sequence[Delivery]:
        return await queue.complete([done(held)])


class SteeringCases(Suite):
    """Pausing queues and hurrying jobs."""

    async def test_a_paused_queue_hands_out_nothing(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue([message(), message(queue="video")])
        await store.pause("default", reason="maintenance")
        await self.nothing_comes(queue)
        await self.receive_one(queue, name="video")
        await store.resume("default")
        await self.receive_one(queue)

    async def test_what_is_enqueued_while_paused_waits(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await store.pause("default")
        sent = message()
        await queue.enqueue([sent])
        await self.nothing_comes(queue)
        await store.resume("default")
        assert (await self.receive_one(queue)).job_id == sent.job_id

    async def test_running_jobs_go_on_while_their_queue_is_paused(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(2))
        first, second = await self.receive(queue, 2)
        await store.pause("default")
        assert not await queue.complete([done(first)])
        assert not await queue.abandon([back(second)])
        await self.nothing_comes(queue)

    async def test_pausing_and_resuming_twice_is_harmless(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await store.resume("default")
        await store.pause("default", reason="first")
        await store.pause("default", reason="second")
        await store.resume("default")
        await store.resume("default")
        await self.started(queue, message())

    async def test_every_process_sees_a_pause(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        twin = queue.separate()
        await twin.open()
        try:
            await queue.enqueue([message()])
            await store.pause("default")
            await self.nothing_comes(twin)
        finally:
            await twin.close()

    @pytest.mark.parametrize("how", ["scheduled", "retrying"])
    async def test_an_expedited_job_is_due_now(
        self, queue: BackgroundJobQueue, store: JobStore, how: str
    ) -> None:
        sent = message(delay=self.long_delay if how == "scheduled" else timedelta(0))
        if how == "retrying":
            held = await self.started(queue, sent)
            await queue.abandon([back(held, self.long_delay)])
        else:
            await queue.enqueue([sent])
        assert (await self.job(store, sent)).state == how
        assert list(await store.expedite([sent.job_id])) == [sent.job_id]
        assert (await self.receive_one(queue)).job_id == sent.job_id

    async def test_only_scheduled_and_retrying_jobs_are_expedited(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        running = await self.started(queue, message())
        finished = message()
        await ENDINGS["completed"](self, queue, store, finished)
        assert not await store.expedite([running.job_id, finished.job_id, new_id(), "42"])
        await self.nothing_comes(queue)


class RemovalCases(Suite):
    """Deleting what has ended, or what has not begun."""

    @pytest.mark.parametrize("ending", sorted(ENDINGS))
    async def test_an_ended_job_is_discarded_with_all_its_traces(
        self, queue: BackgroundJobQueue, store: JobStore, ending: str
    ) -> None:
        one = message()
        await ENDINGS[ending](self, queue, store, one)
        assert list(await store.discard([one.job_id])) == [one.job_id]
        assert await store.get(one.job_id) is None
        assert list(await store.history(one.job_id)) == []
        assert list(await store.progress_history(one.job_id)) == []
        assert list(await store.discard([one.job_id])) == []

    async def test_a_job_that_has_not_ended_is_not_discarded(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        running = await self.started(queue, message())
        waiting = message()
        await queue.enqueue([waiting])
        assert not await store.discard([running.job_id, waiting.job_id, new_id(), "42"])
        assert await store.get(waiting.job_id) is not None
        assert not await queue.complete([done(running)])

    async def test_pruning_deletes_jobs_that_ended_before_a_moment(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        old, recent = messages(2)
        await ENDINGS["completed"](self, queue, store, old)
        await self.past(queue, self.tick)
        await ENDINGS["failed"](self, queue, store, recent)
        ended = (await self.job(store, old)).finished_at
        assert ended is not None
        assert await store.prune(finished_before=ended + self.tick / 2) == 1
        assert await store.get(old.job_id) is None
        assert await store.get(recent.job_id) is not None

    @pytest.mark.parametrize("wanted", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
    async def test_pruning_can_be_confined_to_some_endings(
        self, queue: BackgroundJobQueue, store: JobStore, wanted: JobState
    ) -> None:
        for ending in ("completed", "failed", "cancelled"):
            await ENDINGS[ending](self, queue, store, message())
        later = self.now(queue) + timedelta(hours=1)
        assert await store.prune(finished_before=later, states=frozenset({wanted})) == 1
        left = (await store.find(JobFilter())).jobs
        assert len(left) == 2
        assert wanted not in {job.state for job in left}

    async def test_pruning_leaves_unfinished_jobs_however_old(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await self.started(queue, message())
        await queue.enqueue([message(), message(delay=self.long_delay)])
        assert await store.prune(finished_before=self.now(queue) + timedelta(days=365)) == 0
        assert await store.count(JobFilter()) == 3

    async def test_pruning_deletes_no_more_than_its_limit(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(5))
        await queue.complete([done(one) for one in await self.receive(queue, 5)])
        later = self.now(queue) + timedelta(hours=1)
        assert await store.prune(finished_before=later, limit=3) == 3
        assert await store.count(JobFilter()) == 2
        assert await store.prune(finished_before=later) == 2

    async def test_a_purge_deletes_what_has_not_started(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        finished = message()
        await ENDINGS["completed"](self, queue, store, finished)
        running = await self.started(queue, message())
        elsewhere = message(queue="video")
        unstarted = [message(), message(delay=self.long_delay)]
        await queue.enqueue([elsewhere, *unstarted])
        assert await store.purge("default") == 2
        await self.nothing_comes(queue)
        found = await store.find(JobFilter())
        kept = {finished.job_id, running.job_id, elsewhere.job_id}
        assert {job.id for job in found.jobs} == kept
        assert not await queue.complete([done(running)])

    async def test_a_purge_of_an_empty_queue_deletes_nothing(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        assert await store.purge("never-heard-of") == 0
