"""Leases: what a worker that holds one can rely on, and what becomes of one that runs out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from jobbus.message import Delivery, LeaseState
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs, where_leases_expire
from jobbus.testing.make import back, dead, done, message, messages

Settle = Callable[[BackgroundJobQueue, Delivery], Awaitable[Sequence[Delivery]]]

LATE: dict[str, Settle] = {
    "complete": lambda queue, held: queue.complete([done(held, b"late")]),
    "abandon": lambda queue, held: queue.abandon([back(held)]),
    "dead_letter": lambda queue, held: queue.dead_letter([dead(held)]),
}
"""What a worker that comes too late may try."""


class LeaseCases(Suite):
    """Time passes, and workers die."""

    async def _taken_over(self, queue: BackgroundJobQueue) -> tuple[Delivery, Delivery]:
        """A delivery whose lease ran out, and the next worker's."""
        late = await self.started(queue, message(), lease=self.short_lease)
        await self.expire(queue)
        taker = await self.receive_one(queue)
        assert taker.job_id == late.job_id
        return late, taker

    @where_leases_expire
    async def test_an_expired_lease_hands_the_message_to_the_next_worker(
        self, queue: BackgroundJobQueue
    ) -> None:
        late, taker = await self._taken_over(queue)
        assert taker.attempt > late.attempt
        assert taker.message.payload == late.message.payload

    async def test_a_message_is_not_handed_on_while_its_lease_holds(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        await self.pass_time(queue, self.short_delay)
        await self.nothing_comes(queue)
        assert not await queue.complete([done(held)])

    @where_leases_expire
    @pytest.mark.parametrize("verb", sorted(LATE))
    async def test_a_worker_that_comes_too_late_learns_that_its_lease_is_lost(
        self, queue: BackgroundJobQueue, verb: str
    ) -> None:
        late, taker = await self._taken_over(queue)
        assert list(await LATE[verb](queue, late)) == [late]
        assert not await queue.complete([done(taker)])
        await self.nothing_comes(queue)

    @where_leases_expire
    @needs("extends_leases")
    async def test_a_lost_lease_cannot_be_extended(self, queue: BackgroundJobQueue) -> None:
        late, taker = await self._taken_over(queue)
        states = await queue.extend([late, taker], self.long_lease)
        assert list(states) == [LeaseState.LOST, LeaseState.KEPT]

    @where_leases_expire
    async def test_a_late_worker_does_not_end_its_successors_lease(
        self, queue: BackgroundJobQueue
    ) -> None:
        late, taker = await self._taken_over(queue)
        for settle in LATE.values():
            await settle(queue, late)
        await self.nothing_comes(queue)
        assert not await queue.complete([done(taker)])

    @where_leases_expire
    @needs("ledger")
    async def test_a_lease_that_ran_out_but_was_not_taken_over_may_still_complete(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message(), lease=self.short_lease)
        await self.expire(queue)
        # Someone else's claim or recovery may come first on a live server: then it is lost.
        lost = await queue.complete([done(held)])
        if lost:
            assert (await self.receive_one(queue)).attempt > held.attempt
        else:
            await self.nothing_comes(queue)

    @needs("extends_leases")
    async def test_a_held_lease_is_kept_when_extended(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message())
        assert list(await queue.extend([held], self.long_lease)) == [LeaseState.KEPT]
        assert not await queue.complete([done(held)])

    @needs("extends_leases")
    async def test_extending_nothing_is_harmless(self, queue: BackgroundJobQueue) -> None:
        assert list(await queue.extend([], self.long_lease)) == []

    @where_leases_expire
    @needs("extends_leases")
    async def test_an_extended_lease_outlives_its_first_term(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message(), lease=self.short_lease)
        await self.pass_time(queue, self.short_lease / 2)
        assert list(await queue.extend([held], self.long_lease)) == [LeaseState.KEPT]
        await self.past(queue, self.short_lease / 2)
        await self.nothing_comes(queue)
        assert not await queue.complete([done(held)])

    @where_leases_expire
    @needs("extends_leases")
    async def test_an_extended_lease_runs_out_in_its_turn(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message(), lease=self.short_lease)
        await self.pass_time(queue, self.short_lease / 2)
        await queue.extend([held], self.short_lease)
        await self.expire(queue)
        assert (await self.receive_one(queue)).attempt > held.attempt

    @where_leases_expire
    @needs("extends_leases")
    async def test_extending_one_lease_does_not_extend_another(
        self, queue: BackgroundJobQueue
    ) -> None:
        # Two receives: a backend may keep one lease for all that one receive handed out.
        kept = await self.started(queue, message(), lease=self.short_lease)
        left = await self.started(queue, message(), lease=self.short_lease)
        # Halfway, since some brokers have leases of one length only.
        await self.pass_time(queue, self.short_lease / 2)
        await queue.extend([kept], self.long_lease)
        await self.past(queue, self.short_lease / 2)
        assert (await self.receive_one(queue)).job_id == left.job_id
        await self.nothing_comes(queue)

    @needs("extends_leases")
    async def test_extend_answers_for_each_delivery_in_order(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(4))
        held = await self.receive(queue, 4)
        await queue.complete([done(held[1])])
        states = await queue.extend(held, self.long_lease)
        kept, lost = LeaseState.KEPT, LeaseState.LOST
        assert list(states) == [kept, lost, kept, kept]

    @where_leases_expire
    async def test_every_lease_of_a_dead_worker_runs_out(self, queue: BackgroundJobQueue) -> None:
        batch = messages(5)
        await queue.enqueue(batch)
        await self.receive(queue, 5, lease=self.short_lease)
        await self.expire(queue)
        again = await self.receive(queue, 5)
        assert sorted(one.job_id for one in again) == sorted(one.job_id for one in batch)

    @where_leases_expire
    async def test_a_message_handed_over_twice_fences_both_late_workers(
        self, queue: BackgroundJobQueue
    ) -> None:
        first = await self.started(queue, message(max_crashes=10), lease=self.short_lease)
        await self.expire(queue)
        second = await self.receive_one(queue)
        await queue.abandon([back(second)])
        third = await self.receive_one(queue)
        assert list(await queue.complete([done(first), done(second)])) == [first, second]
        assert not await queue.complete([done(third)])
