"""What all conformance cases stand on: the knobs of a suite, and its ways of waiting."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar, cast

import pytest

from jobbus.job import Job, JobState
from jobbus.message import DEFAULT_QUEUE, Delivery, Message
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.clock import VirtualClock
from jobbus.testing.conformance.refusals import refuses

Case = TypeVar("Case", bound=Callable[..., Awaitable[None]])


class Suite:
    """The knobs and helpers that the cases use. Subclasses provide the fixture ``queue``.

    The defaults suit a real server nearby with a clock of its own.
    """

    patience: ClassVar[timedelta] = timedelta(seconds=10)
    """How long to wait for what must come. Real time; never waited for in full on success."""
    silence: ClassVar[timedelta] = timedelta(milliseconds=30)
    """How long a queue must hand out nothing to be believed. Real time."""
    short_lease: ClassVar[timedelta] = timedelta(seconds=1)
    """The shortest lease that the backend keeps precisely; cases wait until it is over."""
    long_lease: ClassVar[timedelta] = timedelta(seconds=60)
    short_delay: ClassVar[timedelta] = timedelta(milliseconds=200)
    """A delay that cases wait out."""
    long_delay: ClassVar[timedelta] = timedelta(minutes=10)
    """A delay that is never over while a case runs."""
    tick: ClassVar[timedelta] = timedelta(milliseconds=20)
    """How much later than a deadline is surely behind it."""
    ready_state: ClassVar[JobState] = JobState.QUEUED
    """The state of a job that could start now; ``created`` where it waits for a relay."""
    leases_expire: ClassVar[bool] = True
    """False for brokers that hold a message until its consumer disconnects."""

    pytestmark = pytest.mark.asyncio

    async def pass_time(self, queue: BackgroundJobQueue, delta: timedelta) -> None:
        """Return when ``delta`` has passed on the clock that the queue goes by."""
        await asyncio.sleep(delta.total_seconds())

    def now(self, queue: BackgroundJobQueue) -> datetime:
        """The time on the clock that the queue goes by."""
        return datetime.now(UTC)

    def store_of(self, queue: BackgroundJobQueue) -> JobStore:
        """The ledger of a queue that declares one."""
        assert isinstance(queue, JobStore), "a queue that declares a ledger is also a JobStore"
        return queue

    def transaction(self, queue: BackgroundJobQueue) -> AbstractAsyncContextManager[Any]:
        """A caller's own connection: commits on a clean exit, rolls back on an error.

        Needed for backends that declare ``transactional``.
        """
        raise NotImplementedError("a transactional backend's test gives a caller's connection")

    async def past(self, queue: BackgroundJobQueue, delta: timedelta) -> None:
        """Return when ``delta`` is surely over."""
        await self.pass_time(queue, delta + self.tick)

    async def expire(self, queue: BackgroundJobQueue) -> None:
        """Return when leases of ``short_lease`` that nobody extends have run out."""
        await self.past(queue, self.short_lease)

    async def receive(
        self,
        queue: BackgroundJobQueue,
        number: int = 1,
        *,
        name: str = DEFAULT_QUEUE,
        lease: timedelta | None = None,
    ) -> list[Delivery]:
        """Exactly ``number`` deliveries, in one or several goes, within ``patience``."""
        held: list[Delivery] = []
        deadline = asyncio.get_running_loop().time() + self.patience.total_seconds()
        while len(held) < number:
            left = deadline - asyncio.get_running_loop().time()
            assert left > 0, f"received {len(held)} of {number} messages in {self.patience}"
            held += await queue.receive(
                name,
                limit=number - len(held),
                wait=timedelta(seconds=left),
                lease=lease or self.long_lease,
            )
        return held

    async def receive_one(
        self,
        queue: BackgroundJobQueue,
        *,
        name: str = DEFAULT_QUEUE,
        lease: timedelta | None = None,
    ) -> Delivery:
        """The next delivery, within ``patience``."""
        [delivery] = await self.receive(queue, name=name, lease=lease)
        return delivery

    async def started(
        self, queue: BackgroundJobQueue, message: Message, *, lease: timedelta | None = None
    ) -> Delivery:
        """The message, enqueued and received by a worker."""
        await queue.enqueue([message])
        delivery = await self.receive_one(queue, name=message.queue, lease=lease)
        assert delivery.job_id == message.job_id
        return delivery

    async def nothing_comes(
        self, queue: BackgroundJobQueue, *, name: str = DEFAULT_QUEUE, limit: int = 10
    ) -> None:
        """Raise AssertionError if the queue hands anything out within ``silence``."""
        unexpected = await queue.receive(
            name, limit=limit, wait=self.silence, lease=self.long_lease
        )
        assert not unexpected, f"nothing may be received now, yet there came {unexpected}"

    async def eventually(self, probe: Callable[[], Awaitable[Any]], what: str) -> Any:
        """What ``probe`` answers once that is truthy; it is asked until ``patience`` ends."""
        try:
            async with asyncio.timeout(self.patience.total_seconds()):
                while True:
                    answer = await probe()
                    if answer:
                        return answer
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {self.patience}") from None

    async def job(self, store: JobStore, wanted: str | Message | Delivery) -> Job:
        """The job as the store has it. Raises AssertionError when it has none."""
        job_id = wanted if isinstance(wanted, str) else wanted.job_id
        found = await store.get(job_id)
        assert found is not None, f"the store knows no job {job_id}"
        return found

    async def enqueue_all(self, queue: BackgroundJobQueue, batch: Sequence[Message]) -> None:
        """Enqueue in steps that the backend takes."""
        step = queue.capabilities.max_batch or 500
        for start in range(0, len(batch), step):
            await queue.enqueue(batch[start : start + step])


class VirtualTime:
    """Put before a suite whose queue goes by a :class:`VirtualClock`: no case really waits.

    The fixture ``queue`` sets ``self.clock``.
    """

    short_lease: ClassVar[timedelta] = timedelta(seconds=30)
    long_lease: ClassVar[timedelta] = timedelta(hours=2)
    short_delay: ClassVar[timedelta] = timedelta(seconds=45)
    long_delay: ClassVar[timedelta] = timedelta(days=3)
    silence: ClassVar[timedelta] = timedelta(milliseconds=10)
    clock: VirtualClock

    async def pass_time(self, queue: BackgroundJobQueue, delta: timedelta) -> None:
        self.clock.advance(delta)

    def now(self, queue: BackgroundJobQueue) -> datetime:
        return self.clock()


def needs(capability: str) -> Callable[[Case], Case]:
    """Mark a case of one capability: a queue that does not declare it must refuse it instead."""

    def decorate(case: Case) -> Case:
        @functools.wraps(case)
        async def kept_or_refused(self: Suite, **fixtures: Any) -> None:
            queue: BackgroundJobQueue = fixtures["queue"]
            if getattr(queue.capabilities, capability):
                await case(self, **fixtures)
            else:
                await refuses(queue, capability)

        return cast(Case, kept_or_refused)

    return decorate


def where_leases_expire(case: Case) -> Case:
    """Mark a case about leases that run out; brokers without them skip it by declaration."""

    @functools.wraps(case)
    async def guarded(self: Suite, **fixtures: Any) -> None:
        if not self.leases_expire:
            pytest.skip("this broker holds messages until their consumer disconnects")
        await case(self, **fixtures)

    return cast(Case, guarded)
