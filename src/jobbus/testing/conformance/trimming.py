"""Trimming: the newest ended jobs of each queue stay, by their number and by their bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from jobbus.job import DEAD, TERMINAL, Problem
from jobbus.message import DeadLetter, Message
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter, JobStore
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import after, dead, done, message, messages

KILO = 1000
LARGE: dict[str, Callable[[], Message]] = {
    "payload": lambda: message(payload=b"x" * KILO),
    "headers": lambda: message(headers={"note": "x" * KILO}),
    "metadata": lambda: message(metadata={"note": "x" * KILO}),
}
"""Messages of about a kilobyte, by where they have it."""


class TrimmingCases(Suite):
    """What a queue keeps when it may keep so much."""

    async def ended(
        self, queue: BackgroundJobQueue, batch: Sequence[Message], *, failed: bool = False
    ) -> None:
        """These have run, one after the other."""
        for one in batch:
            held = await self.started(queue, one)
            await (queue.dead_letter([dead(held)]) if failed else queue.complete([done(held)]))
            await self.past(queue, self.tick)

    async def left(self, store: JobStore) -> set[str]:
        """The jobs that there are."""
        return {job.id for job in (await store.find(JobFilter(), limit=100)).jobs}

    async def test_trimming_keeps_the_newest_jobs_of_each_queue(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        here, there = messages(4), messages(3, queue="video")
        await self.ended(queue, [*there, *here])
        assert await store.trim(keep_count=2) == 3
        assert await self.left(store) == {one.job_id for one in (*here[2:], *there[1:])}
        assert await store.trim(keep_count=2) == 0

    async def test_the_newest_is_what_ended_last_whenever_it_was_enqueued(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        early, late = messages(2)
        held = await self.started(queue, early)
        await self.ended(queue, [late])
        await queue.complete([done(held)])
        assert await store.trim(keep_count=1) == 1
        assert await self.left(store) == {early.job_id}

    @pytest.mark.parametrize("where", list(LARGE))
    async def test_trimming_keeps_no_more_than_so_many_bytes_of_messages(
        self, queue: BackgroundJobQueue, store: JobStore, where: str
    ) -> None:
        batch = [LARGE[where]() for _ in range(4)]
        await self.ended(queue, batch)
        assert await store.trim(keep_bytes=3 * KILO - 1) == 2
        assert await self.left(store) == {one.job_id for one in batch[2:]}
        assert await store.trim(keep_bytes=3 * KILO - 1) == 0

    async def test_results_and_problems_are_among_the_bytes(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        completed, failed, last = messages(3)
        await queue.complete([done(await self.started(queue, completed), b"x" * KILO)])
        await self.past(queue, self.tick)
        large = Problem(kind="ValueError", message="x" * KILO)
        held = await self.started(queue, failed)
        await queue.dead_letter([DeadLetter(delivery=held, problem=large)])
        await self.past(queue, self.tick)
        await self.ended(queue, [last])
        assert await store.trim(keep_bytes=3 * KILO) == 0
        assert await store.trim(keep_bytes=2 * KILO) == 1
        assert await store.trim(keep_bytes=KILO) == 1
        assert await self.left(store) == {last.job_id}

    async def test_of_two_limits_the_narrower_holds(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await self.ended(queue, messages(4, payload=b"x" * KILO))
        assert await store.trim(keep_count=3, keep_bytes=100 * KILO) == 1
        assert await store.trim(keep_count=100, keep_bytes=3 * KILO - 1) == 1

    async def test_no_limit_deletes_nothing_and_a_limit_of_none_deletes_all(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await self.ended(queue, messages(2))
        assert await store.trim() == 0
        assert await store.trim(keep_count=0) == 2

    async def test_trimming_can_be_confined_to_some_endings_which_share_the_limit(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        failed, completed, cancelled = messages(3), messages(2), messages(2)
        await self.ended(queue, failed, failed=True)
        await self.ended(queue, completed)
        await queue.enqueue(cancelled)
        for one in cancelled:
            await store.cancel([one.job_id])
            await self.past(queue, self.tick)
        assert await store.trim(keep_count=3, states=TERMINAL - DEAD) == 1
        assert await store.trim(keep_count=1, states=DEAD) == 2
        kept = {one.job_id for one in (failed[2], completed[1], *cancelled)}
        assert await self.left(store) == kept

    async def test_trimming_leaves_unfinished_jobs_however_many(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        running = await self.started(queue, message())
        waiting = [*messages(3), message(delay=self.long_delay)]
        await queue.enqueue(waiting)
        assert await store.trim(keep_count=0, keep_bytes=0) == 0
        assert await self.left(store) == {running.job_id, *(one.job_id for one in waiting)}

    async def test_trimming_deletes_no_more_than_its_limit_the_oldest_first(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(5)
        await self.ended(queue, batch)
        assert await store.trim(keep_count=1, limit=3) == 3
        assert await self.left(store) == {one.job_id for one in batch[3:]}
        assert await store.trim(keep_count=1, limit=3) == 1

    async def test_what_was_trimmed_leaves_no_traces(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        one = message()
        await self.ended(queue, [one], failed=True)
        assert await store.trim(keep_count=0) == 1
        assert await store.get(one.job_id) is None
        assert list(await store.history(one.job_id)) == []

    async def test_several_trimming_at_once_delete_no_more_than_one_would(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(8)
        await self.ended(queue, batch)
        sweeps: list[Awaitable[int]] = [store.trim(keep_count=3, limit=2) for _ in range(6)]
        await asyncio.gather(*sweeps)
        while await store.trim(keep_count=3):
            pass
        assert await self.left(store) == {one.job_id for one in batch[5:]}

    async def test_a_redriven_job_counts_by_its_last_end(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        again, other = messages(2, payload=b"x" * KILO)
        await self.ended(queue, [again, other], failed=True)
        await store.redrive([again.job_id])
        assert await store.trim(keep_count=1, keep_bytes=2 * KILO) == 0
        await queue.dead_letter([dead(await self.receive_one(queue))])
        assert await store.trim(keep_count=1, keep_bytes=2 * KILO) == 1
        assert await self.left(store) == {again.job_id}

    async def test_what_was_discarded_counts_no_more(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(4, payload=b"x" * KILO)
        await self.ended(queue, batch)
        await store.discard([one.job_id for one in batch[2:]])
        assert await store.trim(keep_count=2, keep_bytes=3 * KILO) == 0

    @needs("dependencies")
    async def test_whoever_waited_for_a_job_runs_though_it_was_trimmed_at_once(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        held = await self.started(queue, parent)
        await queue.enqueue([child])
        await queue.complete([done(held)])
        assert await store.trim(keep_count=0) == 1
        assert (await self.receive_one(queue)).job_id == child.job_id
