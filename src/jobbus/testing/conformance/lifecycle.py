"""Opening, closing, and the same queue a second time on connections of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from jobbus.errors import BackendUnavailable, ConfigurationError, JobbusError
from jobbus.message import DEFAULT_QUEUE, NO_DELAY
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import done, message

VERBS: dict[str, Callable[[BackgroundJobQueue, Suite], Awaitable[object]]] = {
    "enqueue": lambda queue, _: queue.enqueue([message()]),
    "receive": lambda queue, suite: queue.receive(
        DEFAULT_QUEUE, limit=1, wait=NO_DELAY, lease=suite.long_lease
    ),
    "get_queue_depth": lambda queue, _: queue.get_queue_depth(DEFAULT_QUEUE),
}


class LifecycleCases(Suite):
    """A queue that was never opened, is closed, is closed again, is there twice."""

    async def test_closing_twice_is_harmless(self, queue: BackgroundJobQueue) -> None:
        twin = queue.separate()
        await twin.open()
        await twin.close()
        await twin.close()
        await self.started(queue, message())

    async def test_closing_what_was_never_opened_is_harmless(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.separate().close()
        await self.started(queue, message())

    @pytest.mark.parametrize("verb", sorted(VERBS))
    async def test_a_closed_queue_says_so_instead_of_hanging(
        self, queue: BackgroundJobQueue, verb: str
    ) -> None:
        twin = queue.separate()
        await twin.open()
        await twin.close()
        async with asyncio.timeout(self.patience.total_seconds()):
            with pytest.raises((BackendUnavailable, ConfigurationError)):
                await VERBS[verb](twin, self)

    @pytest.mark.parametrize("verb", sorted(VERBS))
    async def test_an_unopened_queue_says_so_instead_of_hanging(
        self, queue: BackgroundJobQueue, verb: str
    ) -> None:
        twin = queue.separate()
        try:
            async with asyncio.timeout(self.patience.total_seconds()):
                with pytest.raises((BackendUnavailable, ConfigurationError)):
                    await VERBS[verb](twin, self)
        finally:
            await twin.close()

    async def test_closing_does_not_wait_for_a_receive(self, queue: BackgroundJobQueue) -> None:
        twin = queue.separate()
        await twin.open()
        wait = 10 * self.patience
        receiving = asyncio.create_task(
            twin.receive(DEFAULT_QUEUE, limit=1, wait=wait, lease=self.long_lease)
        )
        await asyncio.sleep(self.silence.total_seconds())
        async with asyncio.timeout(self.patience.total_seconds()):
            await twin.close()
            try:
                assert not await receiving
            except (JobbusError, asyncio.CancelledError):
                assert receiving.done()

    async def test_a_separate_queue_sees_the_same_messages(self, queue: BackgroundJobQueue) -> None:
        twin = queue.separate()
        await twin.open()
        try:
            sent = message()
            await queue.enqueue([sent])
            held = await self.receive_one(twin)
            assert held.job_id == sent.job_id
            await self.nothing_comes(queue)
            assert not await twin.complete([done(held)])
        finally:
            await twin.close()
        await self.nothing_comes(queue)

    async def test_closing_a_separate_queue_leaves_this_one_open(
        self, queue: BackgroundJobQueue
    ) -> None:
        twin = queue.separate()
        await twin.open()
        await twin.close()
        held = await self.started(queue, message())
        assert not await queue.complete([done(held)])

    async def test_a_separate_queue_works_in_another_threads_event_loop(
        self, queue: BackgroundJobQueue
    ) -> None:
        twin = queue.separate()
        sent, answer = message(), message()

        async def work() -> None:
            await twin.open()
            try:
                held = await self.receive_one(twin)
                assert held.job_id == sent.job_id
                assert not await twin.complete([done(held)])
                await twin.enqueue([answer])
            finally:
                await twin.close()

        elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, work()))
        await queue.enqueue([sent])
        await elsewhere
        assert (await self.receive_one(queue)).job_id == answer.job_id

    @needs("extends_leases")
    async def test_a_lease_may_be_extended_through_a_separate_queue(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        twin = queue.separate()
        await twin.open()
        try:
            [state] = await twin.extend([held], self.long_lease)
            assert state == "kept"
        finally:
            await twin.close()
        assert not await queue.complete([done(held)])
