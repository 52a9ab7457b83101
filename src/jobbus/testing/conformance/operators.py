"""What operators and producers see of the fleet: queues, workers and job types."""

from __future__ import annotations

import os

from jobbus.job import JobState
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore, JobTypeRecord, QueueStatus, WorkerRecord
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.make import done, message, messages


class OperatorCases(Suite):
    """Lists of what there is."""

    async def _queue(self, store: JobStore, name: str) -> QueueStatus:
        [found] = [one for one in await store.queues() if one.name == name]
        return found

    async def test_queues_are_listed_with_their_counts(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue([*messages(3), message(queue="video")])
        await self.receive_one(queue)
        listed = await self._queue(store, "default")
        counts = {state: number for state, number in listed.counts.items() if number}
        assert counts == {self.ready_state: 2, JobState.RUNNING: 1}
        assert not listed.paused
        assert (await self._queue(store, "video")).counts[self.ready_state] == 1

    async def test_a_paused_queue_says_so_and_why(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue([message()])
        await store.pause("default", reason="maintenance until 6")
        listed = await self._queue(store, "default")
        assert (listed.paused, listed.reason) == (True, "maintenance until 6")
        await store.resume("default")
        assert not (await self._queue(store, "default")).paused

    async def test_a_queue_may_be_paused_before_it_has_jobs(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await store.pause("video", reason="not yet")
        assert (await self._queue(store, "video")).paused

    async def test_a_worker_is_listed_once_it_has_received(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(2))
        held = await self.receive(queue, 2)
        mine = await self.eventually(lambda: self._mine(store), "this worker is listed")
        assert mine.alive
        assert mine.host
        assert mine.running == 2
        assert mine.seen_at >= mine.started_at
        job = await self.job(store, held[0])
        assert job.worker == mine.name

    async def _mine(self, store: JobStore) -> WorkerRecord | None:
        found = [one for one in await store.workers() if one.pid == os.getpid() and one.running]
        return found[0] if found else None

    async def test_a_worker_with_nothing_in_its_hands_is_not_said_to_run_any(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held)])
        assert sum(one.running for one in await store.workers()) == 0

    async def test_what_a_worker_has_settled_is_no_longer_in_its_hands(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(2))
        held = await self.receive(queue, 2)
        await queue.complete([done(held[0])])
        assert sum(one.running for one in await store.workers()) == 1

    async def test_announced_job_types_are_read_back(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        announced = [
            JobTypeRecord(
                name="email.send",
                queue="mail",
                max_attempts=5,
                max_crashes=2,
                priority=8,
                payload_schema={"type": "object", "title": "é", "required": ["to"]},
            ),
            JobTypeRecord(name="video.render", queue="video"),
        ]
        await store.announce(announced)
        listed = sorted(await store.job_types(), key=lambda one: one.name)
        assert listed == announced

    async def test_a_job_type_announced_again_is_the_newer_one(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await store.announce([JobTypeRecord(name="email.send", queue="mail")])
        newer = JobTypeRecord(name="email.send", queue="post", max_attempts=9)
        await store.announce([newer])
        assert list(await store.job_types()) == [newer]

    async def test_announcing_nothing_is_harmless(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await store.announce([])
        assert list(await store.job_types()) == []

    @needs("ordered_groups")
    async def test_a_group_that_waits_is_not_said_to_run(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(3, group="a"))
        await self.receive_one(queue)
        counts = await store.counts("default")
        assert counts[("default", JobState.RUNNING)] == 1
        assert sum(counts.values()) == 3
