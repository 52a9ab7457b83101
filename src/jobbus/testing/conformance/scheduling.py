"""When a message may be received: delays, moments, deadlines, and their limits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.message import NO_DELAY
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import done, message


class SchedulingCases(Suite):
    """Due later, due at once, and too late."""

    def _later(self, queue: BackgroundJobQueue) -> timedelta:
        return min(self.long_delay, queue.capabilities.max_delay or self.long_delay)

    @needs("delays")
    async def test_a_delayed_message_does_not_come_early(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(delay=self._later(queue))])
        await self.nothing_comes(queue)
        await self.pass_time(queue, self.short_delay)
        await self.nothing_comes(queue)

    @needs("delays")
    async def test_a_delayed_message_comes_when_its_delay_is_over(
        self, queue: BackgroundJobQueue
    ) -> None:
        late = message(delay=self.short_delay)
        await queue.enqueue([late])
        await self.past(queue, self.short_delay)
        assert (await self.receive_one(queue)).job_id == late.job_id

    @needs("delays")
    async def test_a_message_with_a_moment_does_not_come_before_it(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue([message(run_at=self.now(queue) + self._later(queue))])
        await self.nothing_comes(queue)

    @needs("delays")
    async def test_a_message_with_a_moment_comes_after_it(self, queue: BackgroundJobQueue) -> None:
        later = message(run_at=self.now(queue) + self.short_delay)
        await queue.enqueue([later])
        await self.past(queue, self.short_delay)
        assert (await self.receive_one(queue)).job_id == later.job_id

    async def test_a_moment_in_the_past_is_now(self, queue: BackgroundJobQueue) -> None:
        overdue = message(run_at=self.now(queue) - timedelta(days=400))
        assert (await self.started(queue, overdue)).attempt == 1

    async def test_no_delay_is_no_delay(self, queue: BackgroundJobQueue) -> None:
        assert (await self.started(queue, message(delay=NO_DELAY))).attempt == 1

    @needs("delays")
    @pytest.mark.parametrize("later_one", ["delay", "run_at"])
    async def test_given_a_delay_and_a_moment_the_later_one_holds(
        self, queue: BackgroundJobQueue, later_one: str
    ) -> None:
        short, long = self.short_delay, self._later(queue)
        delay, moment = (long, short) if later_one == "delay" else (short, long)
        await queue.enqueue([message(delay=delay, run_at=self.now(queue) + moment)])
        await self.past(queue, short)
        await self.nothing_comes(queue)

    @needs("delays")
    async def test_a_delayed_message_holds_nothing_up(self, queue: BackgroundJobQueue) -> None:
        at_once = message()
        await queue.enqueue([message(delay=self._later(queue)), at_once])
        assert (await self.receive_one(queue)).job_id == at_once.job_id
        await self.nothing_comes(queue)

    @needs("delays")
    async def test_a_delayed_message_is_handed_out_once(self, queue: BackgroundJobQueue) -> None:
        await queue.enqueue([message(delay=self.short_delay)])
        await self.past(queue, self.short_delay)
        held = await self.receive_one(queue)
        await self.nothing_comes(queue)
        assert not await queue.complete([done(held)])

    @needs("delays")
    async def test_a_wait_does_not_end_before_a_delay_that_is_shorter(
        self, queue: BackgroundJobQueue
    ) -> None:
        soon = message(delay=timedelta(milliseconds=1))
        await queue.enqueue([soon])
        await self.past(queue, timedelta(milliseconds=1))
        assert (await self.receive_one(queue)).job_id == soon.job_id

    @needs("expiry")
    async def test_a_message_that_has_not_started_by_its_deadline_never_does(
        self, queue: BackgroundJobQueue
    ) -> None:
        await queue.enqueue([message(expires_at=self.now(queue) + self.short_delay)])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)

    @needs("expiry")
    async def test_a_message_is_received_before_its_deadline(
        self, queue: BackgroundJobQueue
    ) -> None:
        timely = message(expires_at=self.now(queue) + self.long_delay)
        assert (await self.started(queue, timely)).message.expires_at == timely.expires_at

    @needs("expiry")
    async def test_a_message_that_started_in_time_may_end_after_its_deadline(
        self, queue: BackgroundJobQueue
    ) -> None:
        timely = message(expires_at=self.now(queue) + self.short_lease)
        held = await self.started(queue, timely)
        await self.expire(queue)
        await self.nothing_comes(queue)
        assert not await queue.complete([done(held)])

    @needs("expiry")
    async def test_a_message_that_is_too_late_holds_nothing_up(
        self, queue: BackgroundJobQueue
    ) -> None:
        stale = [message(expires_at=self.now(queue) - timedelta(hours=1)) for _ in range(5)]
        fresh = message()
        await queue.enqueue([*stale, fresh])
        assert (await self.receive_one(queue)).job_id == fresh.job_id
        await self.nothing_comes(queue)
