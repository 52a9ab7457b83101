"""Capabilities are a promise in both directions: what is declared works, all else is refused."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta

import pytest

from jobbus.errors import Unsupported
from jobbus.message import Capabilities, Priority, QueueDepth
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.conformance.refusals import refuses, refuses_to_enqueue
from jobbus.testing.make import after, back, dead, done, message, messages


class CapabilityCases(Suite):
    """One case per capability; the themes' own modules have the details."""

    async def test_capabilities_are_fixed(self, queue: BackgroundJobQueue) -> None:
        before = queue.capabilities
        await self.started(queue, message())
        assert queue.capabilities == before
        assert isinstance(before, Capabilities)

    async def test_capabilities_are_readable_before_opening(
        self, queue: BackgroundJobQueue
    ) -> None:
        assert queue.separate().capabilities == queue.capabilities

    async def test_limits_that_are_declared_are_positive(self, queue: BackgroundJobQueue) -> None:
        for limit in ("max_delay", "max_lease", "max_batch", "max_payload"):
            value = getattr(queue.capabilities, limit)
            nothing = timedelta(0) if isinstance(value, timedelta) else 0
            assert value is None or value > nothing, f"{limit} is {value}"
        assert {field.name for field in fields(queue.capabilities)} >= {"durable", "max_payload"}

    @needs("priorities")
    async def test_priorities_are_kept_or_refused(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(priority=Priority.LOW), message(priority=Priority.HIGH)])
        assert (await self.receive_one(queue)).message.priority == Priority.HIGH

    @needs("ordered_groups")
    async def test_group_order_is_kept_or_refused(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue(messages(2, group="tenant-1"))
        assert len(await self.receive(queue, 1)) == 1
        await self.nothing_comes(queue)

    @needs("dependencies")
    async def test_dependencies_are_kept_or_refused(self, queue: BackgroundJobQueue) -> None:
        parent = message()
        await queue.enqueue([parent, message(depends_on=after(parent))])
        assert (await self.receive_one(queue)).job_id == parent.job_id
        await self.nothing_comes(queue)

    @needs("unique_keys")
    async def test_unique_keys_are_kept_or_refused(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue(messages(2, unique_key="report-7"))
        await self.receive_one(queue)
        await self.nothing_comes(queue)

    @needs("expiry")
    async def test_deadlines_are_kept_or_refused(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(expires_at=self.now(queue) + self.short_delay)])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)

    @needs("transactional")
    async def test_a_callers_transaction_is_joined_or_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        async with self.transaction(queue) as connection:
            await queue.enqueue([message()], connection=connection)
        await self.receive_one(queue)

    @needs("extends_leases")
    async def test_leases_are_extended_or_extending_is_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        [state] = await queue.extend([held], self.long_lease)
        assert state == "kept"

    @needs("delays")
    async def test_delays_are_kept_or_refused(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(delay=self.short_delay)])
        await self.nothing_comes(queue)

    @needs("ledger")
    async def test_a_declared_ledger_is_a_job_store(self, queue: BackgroundJobQueue) -> None:
        store = self.store_of(queue)
        assert isinstance(store, JobStore)
        sent = message()
        await queue.enqueue([sent])
        assert (await self.job(store, sent)).job_type == sent.job_type

    @needs("deduplicates")
    async def test_known_jobs_are_dropped_where_that_is_declared(
        self, queue: BackgroundJobQueue
    ) -> None:
        once = message()
        await queue.enqueue([once])
        await queue.enqueue([once])
        await self.receive_one(queue)
        await self.nothing_comes(queue)

    async def test_a_delay_beyond_the_declared_limit_is_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        limit = queue.capabilities.max_delay
        if not queue.capabilities.delays:
            await refuses(queue, "delays")
        elif limit is None:
            await queue.enqueue([message(delay=timedelta(days=3650))])
            await self.nothing_comes(queue)
        else:
            await refuses_to_enqueue(queue, message(delay=limit + timedelta(seconds=1)))

    async def test_a_back_off_beyond_the_declared_limit_is_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        limit = queue.capabilities.max_delay
        held = await self.started(queue, message())
        if limit is None:
            assert not await queue.abandon([back(held, timedelta(days=3650))])
        else:
            with pytest.raises(Unsupported):
                await queue.abandon([back(held, limit + timedelta(seconds=1))])
            assert not await queue.complete([done(held)])

    async def test_a_lease_beyond_the_declared_limit_is_refused(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue([message()])
        limit = queue.capabilities.max_lease
        if limit is None:
            await self.receive_one(queue, lease=timedelta(days=30))
        else:
            with pytest.raises(Unsupported):
                await self.receive_one(queue, lease=limit + timedelta(seconds=1))
            await self.receive_one(queue, lease=limit)

    async def test_a_batch_of_the_declared_size_is_taken(self, queue: BackgroundJobQueue) -> None:
        batch = messages(min(queue.capabilities.max_batch or 300, 300))
        answered = await queue.enqueue(batch)
        assert list(answered) == [one.job_id for one in batch]


class DepthCases(Suite):
    """Counting, exactly or nearly."""

    async def _depth(self, queue: BackgroundJobQueue, **expected: int) -> QueueDepth:
        """The depth; with exact counts it must be as expected, else None or some number."""
        depth = await queue.get_queue_depth("default")
        if queue.capabilities.exact_counts:
            seen = {name: getattr(depth, name) for name in expected}
            assert seen == expected
        return depth

    async def test_an_empty_queue_has_no_depth(self, queue: BackgroundJobQueue) -> None:
        depth = await self._depth(queue, ready=0, leased=0, delayed=0, dead=0)
        assert depth.oldest_age is None

    async def test_a_queue_that_nobody_has_named_has_no_depth(
        self, queue: BackgroundJobQueue
    ) -> None:
        depth = await queue.get_queue_depth("never-heard-of")
        assert depth.ready == 0

    async def test_the_depth_tells_ready_leased_delayed_and_dead_apart(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(5))
        held = await self.receive(queue, 3)
        if queue.capabilities.delays:
            await queue.enqueue([message(delay=self.short_delay * 10)])
        await self._depth(queue, ready=2, leased=3, delayed=1, dead=0)
        await queue.dead_letter([dead(held[0])])
        await queue.complete([done(held[1])])
        await self._depth(queue, ready=2, leased=1, delayed=1, dead=1)

    async def test_failed_and_timed_out_messages_are_both_dead(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue(messages(2))
        failed, overrun = await self.receive(queue, 2)
        await queue.dead_letter([dead(failed), dead(overrun, timed_out=True)])
        await self._depth(queue, ready=0, leased=0, dead=2)

    async def test_a_back_off_counts_as_delayed(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, self.short_delay * 10)])
        await self._depth(queue, ready=0, leased=0, delayed=1)

    async def test_the_depth_is_of_one_queue(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(), message(queue="video"), message(queue="video")])
        await self._depth(queue, ready=1)

    @needs("exact_counts")
    async def test_the_oldest_age_is_that_of_the_longest_ready(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue([message()])
        await self.past(queue, self.short_delay)
        await queue.enqueue([message(), message(delay=self.long_delay)])
        age = (await queue.get_queue_depth("default")).oldest_age
        assert age is not None
        assert self.short_delay <= age < self.short_delay + self.patience

    @needs("dependencies")
    @needs("exact_counts")
    async def test_blocked_messages_are_counted_apart(self, queue: BackgroundJobQueue) -> None:
        parent = message()
        await queue.enqueue([parent, *(message(depends_on=after(parent)) for _ in range(2))])
        await self._depth(queue, ready=1, blocked=2)
