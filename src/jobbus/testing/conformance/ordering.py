"""Who goes first: priorities, and groups whose members go one at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from jobbus.message import CountsAs, Priority
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs, where_leases_expire
from jobbus.testing.make import back, dead, done, message, messages, stopped


class PriorityCases(Suite):
    """Higher runs sooner."""

    @needs("priorities")
    async def test_the_most_urgent_message_goes_first(self, queue: BackgroundJobQueue) -> None:
        mixed = [message(priority=rank) for rank in (3, 9, 1, 10, 5, 2, 8, 4, 7, 6)]
        await queue.enqueue(mixed)
        received = [(await self.receive_one(queue)).job_id for _ in mixed]
        mixed.sort(key=lambda one: one.priority, reverse=True)
        assert received == [one.job_id for one in mixed]

    @needs("priorities")
    async def test_a_batch_is_received_best_first(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(priority=rank) for rank in (2, 8, 5)])
        held = await self.receive(queue, 3)
        assert [one.message.priority for one in held] == [8, 5, 2]

    @needs("priorities")
    async def test_an_urgent_message_overtakes_those_that_wait(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(5, priority=Priority.LOW))
        urgent = message(priority=Priority.HIGH)
        await queue.enqueue([urgent])
        assert (await self.receive_one(queue)).job_id == urgent.job_id

    @needs("priorities")
    async def test_a_retry_keeps_its_priority(self, queue: BackgroundJobQueue) -> None:
        urgent = message(priority=Priority.HIGH)
        held = await self.started(queue, urgent)
        await queue.enqueue(messages(2))
        await queue.abandon([back(held)])
        assert (await self.receive_one(queue)).job_id == urgent.job_id

    @needs("priorities")
    async def test_an_urgent_message_that_is_not_due_lets_others_go(
        self, queue: BackgroundJobQueue
    ) -> None:
        humble = message(priority=1)
        await queue.enqueue([message(priority=10, delay=self.long_delay), humble])
        assert (await self.receive_one(queue)).job_id == humble.job_id

    @needs("priorities")
    @needs("ledger")
    async def test_of_equals_the_one_that_was_due_first_goes_first(
        self, queue: BackgroundJobQueue
    ) -> None:
        second, first = message(delay=3 * self.tick), message(delay=self.tick)
        await queue.enqueue([second, first])
        await self.past(queue, 3 * self.tick)
        received = [(await self.receive_one(queue)).job_id for _ in range(2)]
        assert received == [first.job_id, second.job_id]

    @needs("priorities")
    @needs("ledger")
    async def test_of_equals_enqueued_together_the_older_id_goes_first(
        self, queue: BackgroundJobQueue
    ) -> None:
        batch = messages(6)
        await queue.enqueue(list(reversed(batch)))
        received = [(await self.receive_one(queue)).job_id for _ in batch]
        assert received == [one.job_id for one in batch]


class GroupCases(Suite):
    """Messages of one group are delivered in order, one at a time."""

    @needs("ordered_groups")
    async def test_members_of_a_group_go_one_at_a_time(self, queue: BackgroundJobQueue) -> None:
        batch = messages(3, group="tenant-1")
        await queue.enqueue(batch)
        first = await self.receive_one(queue)
        assert first.job_id == batch[0].job_id
        await self.nothing_comes(queue)

    @needs("ordered_groups")
    async def test_members_of_a_group_go_in_the_order_of_their_enqueueing(
        self, queue: BackgroundJobQueue
    ) -> None:
        batch = messages(4, group="tenant-1")
        for one in batch:
            await queue.enqueue([one])
        for one in batch:
            held = await self.receive_one(queue)
            assert held.job_id == one.job_id
            assert held.message.group == "tenant-1"
            await self.nothing_comes(queue)
            assert not await queue.complete([done(held)])

    @needs("ordered_groups")
    async def test_one_receive_takes_one_member_of_each_group(
        self, queue: BackgroundJobQueue
    ) -> None:
        for group in ("a", "b", "c"):
            await queue.enqueue(messages(2, group=group))
        held = await self.receive(queue, 3)
        assert sorted(one.message.group or "" for one in held) == ["a", "b", "c"]
        await self.nothing_comes(queue)

    @needs("ordered_groups")
    async def test_a_group_does_not_hold_up_messages_without_one(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(3, group="a"))
        free = messages(3)
        await queue.enqueue(free)
        held = await self.receive(queue, 4)
        assert {one.job_id for one in held} >= {one.job_id for one in free}

    @needs("ordered_groups")
    async def test_a_retrying_member_holds_up_its_group(self, queue: BackgroundJobQueue) -> None:
        first, second = messages(2, group="a")
        await queue.enqueue([first, second])
        held = await self.receive_one(queue)
        await queue.abandon([back(held, self.short_delay)])
        await self.nothing_comes(queue)
        await self.past(queue, self.short_delay)
        again = await self.receive_one(queue)
        assert again.job_id == first.job_id
        await queue.complete([done(again)])
        assert (await self.receive_one(queue)).job_id == second.job_id

    @needs("ordered_groups")
    async def test_a_released_member_goes_before_the_rest_of_its_group(
        self, queue: BackgroundJobQueue
    ) -> None:
        first, second = messages(2, group="a")
        await queue.enqueue([first, second])
        held = await self.receive_one(queue)
        await queue.abandon([back(held, counts_as=CountsAs.RELEASE)])
        assert (await self.receive_one(queue)).job_id == first.job_id
        await self.nothing_comes(queue)

    @needs("ordered_groups")
    @pytest.mark.parametrize("end", ["complete", "dead_letter", "cancel"])
    async def test_the_next_of_a_group_goes_when_the_one_before_has_ended(
        self, queue: BackgroundJobQueue, end: str
    ) -> None:
        first, second = messages(2, group="a")
        await queue.enqueue([first, second])
        held = await self.receive_one(queue)
        if end == "complete":
            await queue.complete([done(held)])
        elif end == "dead_letter":
            await queue.dead_letter([dead(held)])
        else:
            await queue.complete([stopped(held)])
        assert (await self.receive_one(queue)).job_id == second.job_id

    @where_leases_expire
    @needs("ordered_groups")
    async def test_a_member_whose_worker_died_goes_before_the_rest_of_its_group(
        self, queue: BackgroundJobQueue
    ) -> None:
        first, second = messages(2, group="a")
        await queue.enqueue([first, second])
        await self.receive_one(queue, lease=self.short_lease)
        await self.expire(queue)
        assert (await self.receive_one(queue)).job_id == first.job_id
        await self.nothing_comes(queue)

    @needs("ordered_groups")
    async def test_groups_of_different_queues_are_different_groups(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue([message(group="a", queue="mail"), message(group="a", queue="video")])
        await self.receive_one(queue, name="mail")
        await self.receive_one(queue, name="video")

    @needs("ordered_groups")
    async def test_many_workers_keep_every_group_in_order(self, queue: BackgroundJobQueue) -> None:
        groups = ("a", "b", "c")
        batch = [message(group=name) for _ in range(8) for name in groups]
        await queue.enqueue(batch)
        twin = queue.separate()
        await twin.open()
        seen: dict[str, list[str]] = defaultdict(list)
        try:
            async with asyncio.timeout(3 * self.patience.total_seconds()):
                async with asyncio.TaskGroup() as tasks:
                    for index in range(6):
                        tasks.create_task(self._work((queue, twin)[index % 2], seen, len(batch)))
        finally:
            await twin.close()
        for name in groups:
            assert seen[name] == [one.job_id for one in batch if one.group == name]

    async def _work(
        self, queue: BackgroundJobQueue, seen: dict[str, list[str]], expected: int
    ) -> None:
        while sum(map(len, seen.values())) < expected:
            for held in await queue.receive(
                "default", limit=2, wait=self.silence, lease=self.long_lease
            ):
                seen[held.message.group or ""].append(held.job_id)
                await asyncio.sleep(0)
                assert not await queue.complete([done(held)])
