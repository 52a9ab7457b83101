"""From enqueue to receive: what goes in comes out, to one worker at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from jobbus.errors import JobbusError
from jobbus.message import NO_DELAY, Delivery, Message
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import done, message, messages


class EnqueueCases(Suite):
    """What enqueue accepts, answers and drops."""

    async def test_enqueue_returns_the_job_ids_in_order(self, queue: BackgroundJobQueue) -> None:
        batch = messages(5)
        assert list(await queue.enqueue(batch)) == [one.job_id for one in batch]

    async def test_enqueueing_nothing_is_harmless(self, queue: BackgroundJobQueue) -> None:
        assert list(await queue.enqueue([])) == []
        await self.nothing_comes(queue)

    async def test_a_received_message_is_the_enqueued_one(self, queue: BackgroundJobQueue) -> None:
        sent = message("video.render", payload=b'{"id": 7}', headers={"traceparent": "00-ab-cd-01"})
        delivery = await self.started(queue, sent)
        assert delivery.message.job_type == "video.render"
        assert delivery.message.payload == b'{"id": 7}'
        assert delivery.message.headers == {"traceparent": "00-ab-cd-01"}
        assert delivery.message.queue == sent.queue
        assert delivery.attempt == 1
        assert (delivery.failures, delivery.crashes) == (0, 0)

    async def test_a_delivery_carries_the_limits_that_were_asked_for(
        self, queue: BackgroundJobQueue
    ) -> None:
        wanted = message(max_attempts=7, max_crashes=5, timeout=timedelta(seconds=90))
        delivery = await self.started(queue, wanted)
        assert delivery.message.max_attempts == 7
        assert delivery.message.max_crashes == 5
        assert delivery.message.timeout == timedelta(seconds=90)

    async def test_a_delivery_says_how_long_the_job_could_have_run(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue([message()])
        await self.past(queue, self.short_delay)
        delivery = await self.receive_one(queue)
        assert delivery.wait >= self.short_delay - self.tick
        assert delivery.wait < self.short_delay + self.patience

    @needs("deduplicates")
    async def test_enqueueing_the_same_message_twice_is_enqueueing_it_once(
        self, queue: BackgroundJobQueue
    ) -> None:
        once = message()
        first = await queue.enqueue([once])
        again = await queue.enqueue([once])
        assert list(first) == list(again) == [once.job_id]
        await self.receive_one(queue)
        await self.nothing_comes(queue)

    @needs("deduplicates")
    async def test_a_message_that_stands_twice_in_one_batch_is_kept_once(
        self, queue: BackgroundJobQueue
    ) -> None:
        twice, other = message(), message()
        answered = await queue.enqueue([twice, other, twice])
        assert list(answered) == [twice.job_id, other.job_id, twice.job_id]
        held = await self.receive(queue, 2)
        assert {one.job_id for one in held} == {twice.job_id, other.job_id}
        await self.nothing_comes(queue)

    @needs("deduplicates")
    async def test_a_resend_with_other_content_changes_nothing(
        self, queue: BackgroundJobQueue
    ) -> None:
        first = message(payload=b"first")
        await queue.enqueue([first])
        await queue.enqueue([replace(first, payload=b"second")])
        assert (await self.receive_one(queue)).message.payload == b"first"

    @needs("deduplicates")
    async def test_a_resend_of_a_running_job_does_not_start_it_again(
        self, queue: BackgroundJobQueue
    ) -> None:
        running = message()
        held = await self.started(queue, running)
        assert list(await queue.enqueue([running])) == [running.job_id]
        await self.nothing_comes(queue)
        assert not await queue.complete([done(held)])

    @needs("deduplicates")
    async def test_a_resend_of_a_completed_job_does_not_run_it_again(
        self, queue: BackgroundJobQueue
    ) -> None:
        finished = message()
        await queue.complete([done(await self.started(queue, finished))])
        assert list(await queue.enqueue([finished])) == [finished.job_id]
        await self.nothing_comes(queue)

    async def test_enqueue_keeps_all_of_a_batch_or_none_of_it(
        self, queue: BackgroundJobQueue
    ) -> None:
        too_large = message(payload=b"x" * (queue.capabilities.max_payload + 1))
        with pytest.raises(JobbusError):
            await queue.enqueue([message(), too_large, message()])
        await self.nothing_comes(queue)


class ReceiveCases(Suite):
    """What receive hands out, to whom, and how long it waits."""

    async def test_a_receive_never_hands_out_more_than_its_limit(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(5))
        held = await queue.receive("default", limit=3, wait=self.patience, lease=self.long_lease)
        assert 1 <= len(held) <= 3

    async def test_a_batch_is_handed_out_over_several_receives(
        self, queue: BackgroundJobQueue
    ) -> None:
        batch = messages(10)
        await queue.enqueue(batch)
        ids: list[str] = []
        while len(ids) < len(batch):
            held = await queue.receive(
                "default", limit=4, wait=self.patience, lease=self.long_lease
            )
            assert held, f"only {len(ids)} of {len(batch)} messages came"
            ids += [one.job_id for one in held]
        assert sorted(ids) == sorted(one.job_id for one in batch)

    async def test_an_empty_queue_answers_with_nothing_when_the_wait_is_over(
        self, queue: BackgroundJobQueue
    ) -> None:
        async with asyncio.timeout(self.patience.total_seconds()):
            held = await queue.receive("default", limit=1, wait=self.silence, lease=self.long_lease)
        assert not held

    async def test_a_receive_without_wait_answers_at_once(self, queue: BackgroundJobQueue) -> None:
        async with asyncio.timeout(self.patience.total_seconds()):
            held = await queue.receive("default", limit=1, wait=NO_DELAY, lease=self.long_lease)
        assert not held

    async def test_a_waiting_receive_wakes_when_somebody_enqueues(
        self, queue: BackgroundJobQueue
    ) -> None:
        async with asyncio.timeout(self.patience.total_seconds()), asyncio.TaskGroup() as group:
            waiting = group.create_task(self._wait_long(queue))
            while not waiting.done():
                await asyncio.sleep(self.silence.total_seconds())
                if not waiting.done():
                    await queue.enqueue([message()])
        assert len(waiting.result()) == 1

    async def test_a_waiting_receive_wakes_when_another_process_would_enqueue(
        self, queue: BackgroundJobQueue
    ) -> None:
        twin = queue.separate()
        await twin.open()
        sent = message()
        try:
            async with asyncio.timeout(self.patience.total_seconds()), asyncio.TaskGroup() as group:
                waiting = group.create_task(self._wait_long(queue))
                await asyncio.sleep(self.silence.total_seconds())
                await twin.enqueue([sent])
        finally:
            await twin.close()
        assert [one.job_id for one in waiting.result()] == [sent.job_id]

    async def _wait_long(self, queue: BackgroundJobQueue) -> list[Delivery]:
        wait = 10 * self.patience
        return list(await queue.receive("default", limit=1, wait=wait, lease=self.long_lease))

    async def test_messages_of_one_queue_never_appear_in_another(
        self, queue: BackgroundJobQueue
    ) -> None:
        mail, video = message(queue="mail"), message(queue="video")
        await queue.enqueue([mail, video])
        await self.nothing_comes(queue, name="default")
        assert (await self.receive_one(queue, name="video")).job_id == video.job_id
        await self.nothing_comes(queue, name="video")
        assert (await self.receive_one(queue, name="mail")).job_id == mail.job_id

    async def test_a_held_message_is_not_handed_out_again(self, queue: BackgroundJobQueue) -> None:
        await self.started(queue, message())
        await self.nothing_comes(queue)

    async def test_two_receivers_never_share_a_delivery(self, queue: BackgroundJobQueue) -> None:
        batch = messages(120)
        await self.enqueue_all(queue, batch)
        twin = queue.separate()
        await twin.open()
        taken: Counter[str] = Counter()
        try:
            async with asyncio.timeout(3 * self.patience.total_seconds()):
                async with asyncio.TaskGroup() as group:
                    for index in range(8):
                        side = (queue, twin)[index % 2]
                        group.create_task(self._take_all(side, taken, len(batch)))
        finally:
            await twin.close()
        assert taken == Counter(one.job_id for one in batch)

    async def _take_all(
        self, queue: BackgroundJobQueue, taken: Counter[str], expected: int
    ) -> None:
        while taken.total() < expected:
            held = await queue.receive("default", limit=7, wait=self.silence, lease=self.long_lease)
            taken.update(one.job_id for one in held)
            assert not await queue.complete([done(one) for one in held])

    async def test_messages_of_many_producers_all_arrive_once(
        self, queue: BackgroundJobQueue
    ) -> None:
        batches = [messages(5) for _ in range(8)]
        sent: list[Message] = [one for batch in batches for one in batch]
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self.receive(queue, len(sent)))
            for batch in batches:
                group.create_task(self.enqueue_all(queue, batch))
        assert sorted(one.job_id for one in reading.result()) == sorted(one.job_id for one in sent)
        await self.nothing_comes(queue)

    async def test_a_cancelled_receive_loses_no_message(self, queue: BackgroundJobQueue) -> None:
        batch = messages(12)
        found: set[str] = set()
        for index, one in enumerate(batch):
            receiving = asyncio.create_task(
                queue.receive("default", limit=1, wait=self.patience, lease=self.short_lease)
            )
            await queue.enqueue([one])
            await asyncio.sleep(0.0005 * index)
            receiving.cancel()
            ended = await asyncio.gather(receiving, return_exceptions=True)
            if not isinstance(ended[0], BaseException):
                found.update(delivery.job_id for delivery in ended[0])
                # Those left open would come again below, in the others' place.
                assert not await queue.complete([done(delivery) for delivery in ended[0]])
        if self.leases_expire:
            await self.expire(queue)
        # One by one: what a cancelled receive handed back may come twice, at least once as it is.
        while len(found) < len(batch):
            found.add((await self.receive_one(queue)).job_id)
        assert found == {one.job_id for one in batch}
