"""Redrive: a new generation of a job that ended without success."""

from __future__ import annotations

import pytest

from jobbus.ids import new_id
from jobbus.job import EventType, JobState
from jobbus.message import CountsAs, LeaseState
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.conformance.base import Suite, needs, where_leases_expire
from jobbus.testing.conformance.control import ENDINGS
from jobbus.testing.histories import check_history
from jobbus.testing.make import back, dead, done, message, messages, stopped

REDRIVABLE = sorted(set(ENDINGS) - {"completed"})


class RedriveCases(Suite):
    """Only a redrive leaves a terminal state."""

    @pytest.mark.parametrize("ending", REDRIVABLE)
    async def test_a_redriven_job_is_queued_in_a_new_generation(
        self, queue: BackgroundJobQueue, store: JobStore, ending: str
    ) -> None:
        one = message()
        await ENDINGS[ending](self, queue, store, one)
        before = await self.job(store, one)
        assert list(await store.redrive([one.job_id])) == [one.job_id]
        job = await self.job(store, one)
        assert (job.state, job.generation) == (JobState.QUEUED, 2)
        assert (job.failures, job.crashes) == (0, 0)
        assert (job.problem, job.result, job.finished_at) == (None, None, None)
        assert job.attempt == before.attempt
        assert not job.cancel_requested

    @pytest.mark.parametrize("ending", REDRIVABLE)
    async def test_a_redriven_job_runs_with_a_higher_attempt(
        self, queue: BackgroundJobQueue, store: JobStore, ending: str
    ) -> None:
        one = message(payload=b"work")
        await ENDINGS[ending](self, queue, store, one)
        before = await self.job(store, one)
        await store.redrive([one.job_id])
        held = await self.receive_one(queue)
        assert (held.job_id, held.attempt) == (one.job_id, before.attempt + 1)
        assert held.message.payload == b"work"
        assert (held.failures, held.crashes) == (0, 0)
        assert not await queue.complete([done(held, b"result")])
        job = await self.job(store, one)
        assert (job.state, job.result) == (JobState.COMPLETED, b"result")

    @needs("extends_leases")
    async def test_a_redriven_job_is_no_longer_asked_to_stop(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        one = message()
        await ENDINGS["cancelled while running"](self, queue, store, one)
        await store.redrive([one.job_id])
        held = await self.receive_one(queue)
        assert await store.cancel_requested([held]) == frozenset()
        assert list(await queue.extend([held], self.long_lease)) == [LeaseState.KEPT]

    async def test_a_redriven_job_gets_its_whole_budget_again(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(max_crashes=1))
        await queue.abandon([back(held, counts_as=CountsAs.CRASH)])
        assert (await self.job(store, held)).state is JobState.FAILED
        await store.redrive([held.job_id])
        held = await self.receive_one(queue)
        await queue.abandon([back(held)])
        again = await self.receive_one(queue)
        assert (again.failures, again.crashes, again.attempt) == (1, 0, 3)

    async def test_a_completed_job_is_not_redriven(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        one = message()
        await ENDINGS["completed"](self, queue, store, one)
        before = await self.job(store, one)
        assert list(await store.redrive([one.job_id])) == []
        assert await self.job(store, one) == before
        await self.nothing_comes(queue)

    async def test_an_unfinished_or_unknown_job_is_not_redriven(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        waiting = message()
        await queue.enqueue([waiting])
        assert list(await store.redrive([held.job_id, waiting.job_id, new_id(), "42"])) == []
        assert not await queue.complete([done(held)])
        assert (await self.job(store, waiting)).generation == 1

    async def test_of_many_those_are_redriven_that_can_be(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(4))
        first, second, third, fourth = await self.receive(queue, 4)
        await queue.dead_letter([dead(first), dead(third)])
        await queue.complete([done(second)])
        redriven = await store.redrive([one.job_id for one in (first, second, third, fourth)])
        assert sorted(redriven) == sorted([first.job_id, third.job_id])
        assert len(await self.receive(queue, 2)) == 2

    async def test_a_job_may_be_redriven_again_and_again(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        for generation in (2, 3, 4):
            await queue.dead_letter([dead(held)])
            await store.redrive([held.job_id])
            assert (await self.job(store, held)).generation == generation
            held = await self.receive_one(queue)
            assert held.attempt == generation
        await queue.complete([done(held)])
        check_history(await store.history(held.job_id), await self.job(store, held))

    async def test_the_worker_of_an_older_generation_is_fenced(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        old = await self.started(queue, message())
        await queue.dead_letter([dead(old)])
        await store.redrive([old.job_id])
        assert list(await queue.complete([done(old, b"late")])) == [old]
        assert list(await queue.abandon([back(old)])) == [old]
        new = await self.receive_one(queue)
        assert list(await queue.complete([stopped(old)])) == [old]
        assert not await queue.complete([done(new, b"new")])
        assert (await self.job(store, new)).result == b"new"

    async def test_a_redrive_stands_in_the_history(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.dead_letter([dead(held)])
        await store.redrive([held.job_id])
        events = await store.history(held.job_id)
        check_history(events, await self.job(store, held))
        told = [event.type for event in events]
        assert told[-2:] == [EventType.FAILED, EventType.REDRIVEN]

    @needs("expiry")
    async def test_an_expired_job_can_be_redriven_and_then_runs(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        one = message(expires_at=self.now(queue) + self.short_delay)
        await queue.enqueue([one])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)
        await store.recover()
        assert (await self.job(store, one)).state is JobState.EXPIRED
        assert list(await store.redrive([one.job_id])) == [one.job_id]
        held = await self.receive_one(queue)
        assert (held.job_id, held.attempt) == (one.job_id, 1)

    @needs("expiry")
    async def test_a_redriven_job_that_had_expired_may_also_be_retried(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        one = message(expires_at=self.now(queue) + self.short_delay)
        await queue.enqueue([one])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)
        await store.recover()
        await store.redrive([one.job_id])
        await queue.abandon([back(await self.receive_one(queue))])
        assert (await self.receive_one(queue)).attempt == 2

    @where_leases_expire
    async def test_the_crashed_worker_of_an_older_generation_is_fenced(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        late = await self.started(queue, message(max_crashes=1), lease=self.short_lease)
        await self.expire(queue)
        await store.recover()
        assert (await self.job(store, late)).state is JobState.FAILED
        assert list(await queue.complete([done(late)])) == [late]
        await store.redrive([late.job_id])
        assert (await self.receive_one(queue)).attempt == 2
        assert list(await queue.complete([done(late)])) == [late]
