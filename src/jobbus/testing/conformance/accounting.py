"""Attempts, failures, crashes and snoozes: four counters that are never confused."""

from __future__ import annotations

import pytest

from jobbus.job import EventType, JobState
from jobbus.message import CountsAs, Delivery
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.conformance.base import Suite, where_leases_expire
from jobbus.testing.conformance.leases import LATE
from jobbus.testing.histories import check_history
from jobbus.testing.make import back, done, message


class AccountingCases(Suite):
    """What an abandoned attempt is held against."""

    @pytest.mark.parametrize(
        ("counts_as", "counters"),
        [
            (CountsAs.FAILURE, (1, 0, 0)),
            (CountsAs.CRASH, (0, 1, 0)),
            (CountsAs.SNOOZE, (0, 0, 1)),
            (CountsAs.RELEASE, (0, 0, 0)),
        ],
    )
    async def test_an_abandoned_attempt_is_held_against_one_budget_only(
        self,
        queue: BackgroundJobQueue,
        store: JobStore,
        counts_as: CountsAs,
        counters: tuple[int, int, int],
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.abandon([back(held, counts_as=counts_as)])
        job = await self.job(store, held)
        assert (job.failures, job.crashes, job.snoozes) == counters
        again = await self.receive_one(queue)
        assert (again.failures, again.crashes) == counters[:2]
        assert again.attempt == 2

    @pytest.mark.parametrize("counts_as", [CountsAs.FAILURE, CountsAs.SNOOZE])
    async def test_a_back_off_is_told_as_retrying_until_it_is_over(
        self, queue: BackgroundJobQueue, store: JobStore, counts_as: CountsAs
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, self.short_delay, counts_as)])
        job = await self.job(store, held)
        assert job.state is JobState.RETRYING
        assert job.worker is None or job.attempt == held.attempt
        await self.past(queue, self.short_delay)
        await store.recover()
        assert (await self.job(store, held)).state is JobState.QUEUED

    async def test_a_failure_without_delay_may_be_received_at_once(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held)])
        job = await self.job(store, held)
        assert job.state in (JobState.RETRYING, JobState.QUEUED)
        assert job.run_at <= self.now(queue) + self.tick
        assert (await self.receive_one(queue)).job_id == held.job_id

    async def test_a_released_job_is_queued_at_once(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, counts_as=CountsAs.RELEASE)])
        assert (await self.job(store, held)).state is JobState.QUEUED

    async def test_the_attempt_only_ever_grows(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(max_attempts=9, max_crashes=9))
        attempts = [held.attempt]
        for counts_as in (*CountsAs, *reversed(CountsAs)):
            await queue.abandon([back(held, counts_as=counts_as)])
            held = await self.receive_one(queue)
            attempts.append(held.attempt)
        assert attempts == list(range(1, 10))
        assert (await self.job(store, held)).attempt == 9

    async def test_failures_add_up_over_attempts(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(max_attempts=9))
        for counts_as in (CountsAs.FAILURE, CountsAs.SNOOZE, CountsAs.RELEASE, CountsAs.FAILURE):
            await queue.abandon([back(held, counts_as=counts_as)])
            held = await self.receive_one(queue)
        job = await self.job(store, held)
        assert (job.failures, job.crashes, job.snoozes, job.attempt) == (2, 0, 1, 5)

    async def test_a_completion_after_failures_leaves_the_counters(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held)])
        await queue.complete([done(await self.receive_one(queue))])
        job = await self.job(store, held)
        assert (job.state, job.failures, job.attempt) == (JobState.COMPLETED, 1, 2)


class CrashCases(Suite):
    """Workers that die are counted by construction: nobody reports them."""

    async def _orphan(self, queue: BackgroundJobQueue, max_crashes: int = 3) -> Delivery:
        """A delivery whose lease has run out."""
        held = await self.started(queue, message(max_crashes=max_crashes), lease=self.short_lease)
        await self.expire(queue)
        return held

    @where_leases_expire
    async def test_recovery_takes_a_job_back_from_a_lease_that_ran_out(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self._orphan(queue)
        await store.recover()
        job = await self.job(store, held)
        assert job.state in (JobState.QUEUED, JobState.RETRYING)
        assert (job.crashes, job.failures) == (1, 0)
        again = await self.receive_one(queue)
        assert (again.attempt, again.crashes) == (2, 1)

    @where_leases_expire
    async def test_recovery_says_how_many_jobs_it_took_back(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = [message() for _ in range(3)]
        await queue.enqueue(batch)
        await self.receive(queue, 3, lease=self.short_lease)
        assert await store.recover() == 0
        await self.expire(queue)
        taken = await store.recover()
        # A live server's own housekeeping may have come first.
        assert taken in (0, 3)
        assert all([(await self.job(store, one)).crashes == 1 for one in batch])
        assert await store.recover() == 0

    async def test_recovery_leaves_held_leases_alone(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        assert await store.recover() == 0
        assert (await self.job(store, held)).state is JobState.RUNNING
        assert not await queue.complete([done(held)])

    async def test_recovery_may_leave_young_orphans_to_others(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(), lease=self.long_lease)
        assert await store.recover(expired_for=self.long_lease) == 0
        assert (await self.job(store, held)).state is JobState.RUNNING

    @where_leases_expire
    async def test_a_taker_over_counts_the_crash_of_the_worker_before(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await self._orphan(queue)
        taker = await self.receive_one(queue)
        assert (taker.attempt, taker.crashes, taker.failures) == (2, 1, 0)
        assert (await self.job(store, taker)).crashes == 1

    @where_leases_expire
    async def test_a_job_that_has_used_up_its_crashes_goes_to_the_dead_letters(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self._orphan(queue, max_crashes=1)
        await store.recover()
        await self.nothing_comes(queue)
        job = await self.job(store, held)
        assert job.state is JobState.FAILED
        assert job.crashes == 1
        assert job.problem is not None
        assert job.problem.kind == "poison_crash"

    async def test_reported_crashes_are_held_against_the_same_limit(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(max_crashes=2))
        await queue.abandon([back(held, counts_as=CountsAs.CRASH)])
        held = await self.receive_one(queue)
        assert held.crashes == 1
        await queue.abandon([back(held, counts_as=CountsAs.CRASH)])
        await self.nothing_comes(queue)
        job = await self.job(store, held)
        assert (job.state, job.crashes) == (JobState.FAILED, 2)
        assert job.problem is not None
        assert job.problem.kind == "poison_crash"

    @where_leases_expire
    async def test_a_job_that_only_shared_a_dying_process_is_not_blamed_twice(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self._orphan(queue, max_crashes=2)
        await self.receive_one(queue, lease=self.short_lease)
        await self.expire(queue)
        third = await self.receive_one(queue)
        assert (third.attempt, third.crashes) == (3, 1)
        assert (await self.job(store, held)).state is JobState.RUNNING

    @where_leases_expire
    async def test_a_job_that_kills_its_process_while_it_runs_alone_is_blamed(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        late = await self._orphan(queue, max_crashes=2)
        suspect = await self.receive_one(queue, lease=self.short_lease)
        assert not await store.suspect(late)
        assert await store.suspect(suspect)
        await self.expire(queue)
        await store.recover()
        job = await self.job(store, late)
        assert (job.state, job.crashes) == (JobState.FAILED, 2)
        assert job.problem is not None
        assert job.problem.kind == "poison_crash"

    @where_leases_expire
    @pytest.mark.parametrize("verb", sorted(LATE))
    async def test_a_late_worker_changes_nothing_and_its_refusal_stands_in_the_history(
        self, queue: BackgroundJobQueue, store: JobStore, verb: str
    ) -> None:
        late = await self._orphan(queue)
        await self.receive_one(queue)
        before = await self.job(store, late)
        assert list(await LATE[verb](queue, late)) == [late]
        assert await self.job(store, late) == before
        events = await store.history(late.job_id)
        check_history(events, before)
        [fenced] = [event for event in events if event.type is EventType.FENCED]
        assert (fenced.attempt, fenced.to_state) == (late.attempt, JobState.RUNNING)
        assert events[-1] == fenced

    @where_leases_expire
    async def test_a_late_result_does_not_replace_the_accepted_one(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        late = await self._orphan(queue)
        taker = await self.receive_one(queue)
        assert not await queue.complete([done(taker, b"accepted")])
        assert list(await queue.complete([done(late, b"late")])) == [late]
        job = await self.job(store, late)
        assert (job.state, job.result, job.attempt) == (JobState.COMPLETED, b"accepted", 2)
