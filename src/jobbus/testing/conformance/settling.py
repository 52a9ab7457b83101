"""Complete, abandon and dead-letter: the three ways to give a delivery back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.message import CountsAs, LeaseState
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import back, dead, done, message, messages, stopped


class SettlingCases(Suite):
    """Under a lease that is held."""

    async def test_settling_nothing_is_harmless(self, queue: BackgroundJobQueue) -> None:
        assert not await queue.complete([])
        assert not await queue.abandon([])
        assert not await queue.dead_letter([])

    async def test_a_completed_message_never_returns(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message())
        assert not await queue.complete([done(held, b'"result"')])
        await self.nothing_comes(queue)

    @pytest.mark.parametrize("result", [None, b"", b"null", b"\x00\xff", b'{"a": 1}'])
    async def test_a_completion_takes_any_result(
        self, queue: BackgroundJobQueue, result: bytes | None
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.complete([done(held, result)])

    async def test_a_message_cancelled_by_its_worker_never_returns(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.complete([stopped(held)])
        await self.nothing_comes(queue)

    async def test_completing_twice_under_one_lease_is_completing_once(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.complete([done(held, b"1")])
        assert not await queue.complete([done(held, b"1")])
        await self.nothing_comes(queue)

    async def test_a_completion_given_twice_in_one_call_is_one_completion(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.complete([done(held), done(held)])
        await self.nothing_comes(queue)

    async def test_many_are_completed_in_one_call(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue(messages(10))
        held = await self.receive(queue, 10)
        assert not await queue.complete([done(one) for one in held])
        await self.nothing_comes(queue)

    async def test_an_abandoned_message_comes_again(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message(payload=b"work"))
        assert not await queue.abandon([back(held)])
        again = await self.receive_one(queue)
        assert again.job_id == held.job_id
        assert again.message.payload == b"work"

    @pytest.mark.parametrize("counts_as", list(CountsAs))
    async def test_the_attempt_rises_however_a_message_was_abandoned(
        self, queue: BackgroundJobQueue, counts_as: CountsAs
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.abandon([back(held, counts_as=counts_as)])
        assert (await self.receive_one(queue)).attempt > held.attempt

    async def test_each_of_many_redeliveries_raises_the_attempt(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message(max_attempts=10))
        attempts = [held.attempt]
        for _ in range(4):
            await queue.abandon([back(held)])
            held = await self.receive_one(queue)
            attempts.append(held.attempt)
        assert attempts == sorted(set(attempts))

    async def test_a_message_abandoned_with_a_delay_does_not_come_early(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, self._long(queue))])
        await self.nothing_comes(queue)

    @pytest.mark.parametrize("counts_as", [CountsAs.FAILURE, CountsAs.CRASH, CountsAs.SNOOZE])
    async def test_a_message_abandoned_with_a_delay_comes_when_it_is_over(
        self, queue: BackgroundJobQueue, counts_as: CountsAs
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, self.short_delay, counts_as)])
        await self.past(queue, self.short_delay)
        assert (await self.receive_one(queue)).attempt > held.attempt

    async def test_a_dead_letter_is_never_received(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message())
        assert not await queue.dead_letter([dead(held)])
        await self.nothing_comes(queue)

    async def test_one_of_many_is_settled_without_touching_the_others(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(4))
        first, second, third, fourth = await self.receive(queue, 4)
        assert not await queue.complete([done(first)])
        assert not await queue.dead_letter([dead(second)])
        assert not await queue.abandon([back(third)])
        assert (await self.receive_one(queue)).job_id == third.job_id
        await self.nothing_comes(queue)
        assert not await queue.complete([done(fourth)])

    def _long(self, queue: BackgroundJobQueue) -> timedelta:
        return min(self.long_delay, queue.capabilities.max_delay or self.long_delay)


class SettledCases(Suite):
    """Under a lease that ended with an earlier settlement."""

    async def test_a_message_settled_before_is_lost_to_a_second_worker(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held)])
        again = await self.receive_one(queue)
        assert list(await queue.complete([done(held)])) == [held]
        assert not await queue.complete([done(again)])

    async def test_completing_a_dead_letter_is_refused(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message())
        await queue.dead_letter([dead(held)])
        assert list(await queue.complete([done(held)])) == [held]
        await self.nothing_comes(queue)

    async def test_abandoning_a_completed_message_does_not_bring_it_back(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held)])
        assert list(await queue.abandon([back(held)])) == [held]
        await self.nothing_comes(queue)

    async def test_dead_lettering_a_completed_message_is_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held)])
        assert list(await queue.dead_letter([dead(held)])) == [held]

    async def test_abandoning_twice_under_one_lease_brings_the_message_back_once(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.abandon([back(held)])
        await queue.abandon([back(held)])
        again = await self.receive_one(queue)
        assert (again.job_id, again.attempt) == (held.job_id, held.attempt + 1)
        await self.nothing_comes(queue)

    async def test_completing_an_abandoned_message_is_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held)])
        assert list(await queue.complete([done(held)])) == [held]
        assert (await self.receive_one(queue)).job_id == held.job_id

    @needs("extends_leases")
    async def test_a_settled_message_has_no_lease_to_extend(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(3))
        completed, abandoned, buried = await self.receive(queue, 3)
        await queue.complete([done(completed)])
        await queue.abandon([back(abandoned)])
        await queue.dead_letter([dead(buried)])
        states = await queue.extend([completed, abandoned, buried], self.long_lease)
        assert list(states) == [LeaseState.LOST] * 3

    async def test_of_a_mixed_batch_only_the_lost_are_returned(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(3))
        first, second, third = await self.receive(queue, 3)
        await queue.dead_letter([dead(second)])
        lost = await queue.complete([done(first), done(second), done(third)])
        assert list(lost) == [second]
