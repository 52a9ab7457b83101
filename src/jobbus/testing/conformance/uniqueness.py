"""Unique keys: at most one unfinished job holds a key."""

from __future__ import annotations

import asyncio

import pytest

from jobbus.message import CountsAs
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import back, dead, done, message, messages, stopped


class UniquenessCases(Suite):
    """Who gets a key, what the others are answered, and when it is free again."""

    @needs("unique_keys")
    async def test_a_second_job_for_a_key_is_answered_with_the_first(
        self, queue: BackgroundJobQueue
    ) -> None:
        first, second = messages(2, unique_key="report-7")
        assert list(await queue.enqueue([first])) == [first.job_id]
        assert list(await queue.enqueue([second])) == [first.job_id]
        assert (await self.receive_one(queue)).job_id == first.job_id
        await self.nothing_comes(queue)

    @needs("unique_keys")
    async def test_two_jobs_for_a_key_in_one_batch_are_one_job(
        self, queue: BackgroundJobQueue
    ) -> None:
        first, second = messages(2, unique_key="report-7")
        other = message()
        answered = await queue.enqueue([first, other, second])
        assert list(answered) == [first.job_id, other.job_id, first.job_id]
        held = await self.receive(queue, 2)
        assert {one.job_id for one in held} == {first.job_id, other.job_id}
        await self.nothing_comes(queue)

    @needs("unique_keys")
    async def test_different_keys_do_not_meet(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(unique_key="a"), message(unique_key="b"), message()])
        assert len(await self.receive(queue, 3)) == 3

    @needs("unique_keys")
    async def test_a_running_job_holds_its_key(self, queue: BackgroundJobQueue) -> None:
        first, second = messages(2, unique_key="report-7")
        await self.started(queue, first)
        assert list(await queue.enqueue([second])) == [first.job_id]
        await self.nothing_comes(queue)

    @needs("unique_keys")
    @pytest.mark.parametrize("counts_as", [CountsAs.FAILURE, CountsAs.SNOOZE, CountsAs.CRASH])
    async def test_a_job_that_waits_for_its_next_attempt_holds_its_key(
        self, queue: BackgroundJobQueue, counts_as: CountsAs
    ) -> None:
        first, second = messages(2, unique_key="report-7")
        held = await self.started(queue, first)
        await queue.abandon([back(held, self.short_delay * 10, counts_as)])
        assert list(await queue.enqueue([second])) == [first.job_id]

    @needs("unique_keys")
    async def test_a_delayed_job_holds_its_key(self, queue: BackgroundJobQueue) -> None:
        first = message(unique_key="report-7", delay=self.short_delay * 10)
        await queue.enqueue([first])
        assert list(await queue.enqueue([message(unique_key="report-7")])) == [first.job_id]
        await self.nothing_comes(queue)

    @needs("unique_keys")
    @pytest.mark.parametrize("end", ["completed", "failed", "timed_out", "cancelled"])
    async def test_a_key_is_free_again_when_its_job_has_ended(
        self, queue: BackgroundJobQueue, end: str
    ) -> None:
        first, second = messages(2, unique_key="report-7")
        held = await self.started(queue, first)
        if end == "completed":
            await queue.complete([done(held)])
        elif end == "cancelled":
            await queue.complete([stopped(held)])
        else:
            await queue.dead_letter([dead(held, timed_out=end == "timed_out")])
        assert list(await queue.enqueue([second])) == [second.job_id]
        assert (await self.receive_one(queue)).job_id == second.job_id

    @needs("unique_keys")
    @needs("ledger")
    async def test_a_key_is_free_again_when_its_waiting_job_is_cancelled(
        self, queue: BackgroundJobQueue
    ) -> None:
        first, second = messages(2, unique_key="report-7")
        await queue.enqueue([first])
        await self.store_of(queue).cancel([first.job_id])
        assert list(await queue.enqueue([second])) == [second.job_id]

    @needs("unique_keys")
    @needs("ledger")
    async def test_a_redriven_job_takes_its_key_again(self, queue: BackgroundJobQueue) -> None:
        first, second = messages(2, unique_key="report-7")
        await queue.dead_letter([dead(await self.started(queue, first))])
        assert list(await self.store_of(queue).redrive([first.job_id])) == [first.job_id]
        assert list(await queue.enqueue([second])) == [first.job_id]

    @needs("unique_keys")
    @needs("ledger")
    async def test_a_job_is_not_redriven_while_another_holds_its_key(
        self, queue: BackgroundJobQueue
    ) -> None:
        store = self.store_of(queue)
        first, second = messages(2, unique_key="report-7")
        await queue.dead_letter([dead(await self.started(queue, first))])
        await queue.enqueue([second])
        assert list(await store.redrive([first.job_id])) == []
        assert (await self.job(store, first)).state == "failed"
        await queue.complete([done(await self.receive_one(queue))])
        assert list(await store.redrive([first.job_id])) == [first.job_id]

    @needs("unique_keys")
    async def test_many_producers_at_once_make_one_job_of_a_key(
        self, queue: BackgroundJobQueue
    ) -> None:
        twin = queue.separate()
        await twin.open()
        try:
            answers = await asyncio.gather(
                *(
                    (queue, twin)[index % 2].enqueue([message(unique_key="report-7")])
                    for index in range(10)
                )
            )
        finally:
            await twin.close()
        assert len({answer[0] for answer in answers}) == 1
        assert (await self.receive_one(queue)).job_id == answers[0][0]
        await self.nothing_comes(queue)
