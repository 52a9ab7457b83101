"""Dependencies: a job starts when those before it have ended well, and what else may happen."""

from __future__ import annotations

import asyncio

import pytest

from jobbus.errors import InvalidJob
from jobbus.ids import new_id
from jobbus.job import JobState
from jobbus.message import Message, OnFailure
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter, JobStore
from jobbus.testing.conformance.base import Suite, needs
from jobbus.testing.conformance.control import ENDINGS
from jobbus.testing.histories import check_history
from jobbus.testing.make import after, back, dead, done, message, messages

BECOMES = {
    OnFailure.FAIL: JobState.FAILED,
    OnFailure.SKIP: JobState.CANCELLED,
    OnFailure.RUN: JobState.QUEUED,
}
"""What a job becomes when one that it depends on ends without success."""


class DependencyCases(Suite):
    """Edges between jobs."""

    async def _states(self, store: JobStore, *wanted: Message) -> list[JobState]:
        return [(await self.job(store, one)).state for one in wanted]

    async def _run(self, queue: BackgroundJobQueue, expected: Message) -> None:
        held = await self.receive_one(queue)
        assert held.job_id == expected.job_id
        assert not await queue.complete([done(held)])

    @needs("dependencies")
    async def test_a_job_is_blocked_until_its_parent_has_completed(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        await queue.enqueue([parent, child])
        assert await self._states(store, child) == [JobState.BLOCKED]
        held = await self.receive_one(queue)
        await self.nothing_comes(queue)
        await queue.complete([done(held)])
        assert await self._states(store, child) == [JobState.QUEUED]
        await self._run(queue, child)
        check_history(await store.history(child.job_id), await self.job(store, child))

    @needs("dependencies")
    async def test_a_job_waits_for_all_of_its_parents(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parents = messages(3)
        child = message(depends_on=after(*parents))
        await queue.enqueue([*parents, child])
        held = await self.receive(queue, 3)
        for one in held:
            assert await self._states(store, child) == [JobState.BLOCKED]
            await queue.complete([done(one)])
        assert await self._states(store, child) == [JobState.QUEUED]

    @needs("dependencies")
    async def test_parents_completed_in_one_call_unblock_their_child(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parents = messages(3)
        child = message(depends_on=after(*parents))
        await queue.enqueue([*parents, child])
        await queue.complete([done(one) for one in await self.receive(queue, 3)])
        assert await self._states(store, child) == [JobState.QUEUED]

    @needs("dependencies")
    @pytest.mark.parametrize("policy", list(OnFailure))
    @pytest.mark.parametrize("ending", ["failed", "timed_out"])
    async def test_what_becomes_of_a_child_whose_parent_failed_is_its_own_choice(
        self, queue: BackgroundJobQueue, store: JobStore, policy: OnFailure, ending: str
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent, on_failure=policy))
        await queue.enqueue([parent, child])
        held = await self.receive_one(queue)
        await queue.dead_letter([dead(held, timed_out=ending == "timed_out")])
        job = await self.job(store, child)
        assert job.state is BECOMES[policy]
        if policy is OnFailure.FAIL:
            assert job.problem is not None
            assert job.problem.kind == "dependency_failed"
        check_history(await store.history(child.job_id), job)

    @needs("dependencies")
    @pytest.mark.parametrize("policy", list(OnFailure))
    async def test_a_cancelled_parent_has_not_ended_well(
        self, queue: BackgroundJobQueue, store: JobStore, policy: OnFailure
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent, on_failure=policy))
        await queue.enqueue([parent, child])
        await store.cancel([parent.job_id])
        assert await self._states(store, child) == [BECOMES[policy]]

    @needs("dependencies")
    @needs("expiry")
    async def test_an_expired_parent_has_not_ended_well(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message(expires_at=self.now(queue) + self.short_delay)
        child = message(depends_on=after(parent))
        await queue.enqueue([parent, child])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)
        await store.recover()
        expected = [JobState.EXPIRED, JobState.FAILED]
        assert await self._states(store, parent, child) == expected

    @needs("dependencies")
    async def test_a_child_that_runs_after_failure_still_waits_for_the_end(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        failing, slow = messages(2)
        child = message(depends_on=after(failing, slow, on_failure=OnFailure.RUN))
        await queue.enqueue([failing, slow, child])
        first, second = await self.receive(queue, 2)
        await queue.dead_letter([dead(first)])
        assert await self._states(store, child) == [JobState.BLOCKED]
        await queue.complete([done(second)])
        assert await self._states(store, child) == [JobState.QUEUED]

    @needs("dependencies")
    async def test_a_failure_goes_down_a_whole_chain(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        chain = self._chain(5)
        await queue.enqueue(chain)
        await queue.dead_letter([dead(await self.receive_one(queue))])
        assert await self._states(store, *chain) == [JobState.FAILED] * 5
        await self.nothing_comes(queue)

    def _chain(self, length: int) -> list[Message]:
        chain = [message()]
        for _ in range(length - 1):
            chain.append(message(depends_on=after(chain[-1])))
        return chain

    @needs("dependencies")
    async def test_a_chain_runs_from_its_beginning_to_its_end(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        chain = self._chain(5)
        await queue.enqueue(chain)
        for one in chain:
            held = await self.receive_one(queue)
            assert held.job_id == one.job_id
            await self.nothing_comes(queue)
            await queue.complete([done(held)])

    @needs("dependencies")
    async def test_a_diamond_joins_once(self, queue: BackgroundJobQueue, store: JobStore) -> None:
        top = message()
        left, right = message(depends_on=after(top)), message(depends_on=after(top))
        bottom = message(depends_on=after(left, right))
        await queue.enqueue([top, left, right, bottom])
        await self._run(queue, top)
        sides = await self.receive(queue, 2)
        assert {one.job_id for one in sides} == {left.job_id, right.job_id}
        await queue.complete([done(one) for one in sides])
        await self._run(queue, bottom)
        await self.nothing_comes(queue)

    @needs("dependencies")
    async def test_a_child_of_a_job_that_has_completed_may_run_at_once(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        await ENDINGS["completed"](self, queue, store, parent)
        child = message(depends_on=after(parent))
        await queue.enqueue([child])
        assert await self._states(store, child) == [JobState.QUEUED]
        await self._run(queue, child)

    @needs("dependencies")
    @pytest.mark.parametrize("policy", list(OnFailure))
    async def test_a_child_of_a_job_that_has_failed_meets_its_choice_at_once(
        self, queue: BackgroundJobQueue, store: JobStore, policy: OnFailure
    ) -> None:
        parent = message()
        await ENDINGS["failed"](self, queue, store, parent)
        child = message(depends_on=after(parent, on_failure=policy))
        await queue.enqueue([child])
        assert await self._states(store, child) == [BECOMES[policy]]

    @needs("dependencies")
    async def test_a_child_of_an_unknown_job_is_refused_with_its_whole_batch(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        orphan = message(depends_on=after(new_id()))
        with pytest.raises(InvalidJob):
            await queue.enqueue([message(), orphan])
        assert await store.count(JobFilter()) == 0

    @needs("dependencies")
    async def test_a_child_may_stand_before_its_parent_in_a_batch(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        await queue.enqueue([child, parent])
        await self._run(queue, parent)
        await self._run(queue, child)

    @needs("dependencies")
    async def test_an_unblocked_job_still_waits_for_its_delay(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent), delay=self.long_delay)
        await queue.enqueue([parent, child])
        await self._run(queue, parent)
        await self.nothing_comes(queue)
        assert await self._states(store, child) == [JobState.SCHEDULED]

    @needs("dependencies")
    async def test_a_retry_of_the_parent_keeps_the_child_waiting(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        child = message(depends_on=after(parent))
        await queue.enqueue([parent, child])
        held = await self.receive_one(queue)
        await queue.abandon([back(held, self.short_delay)])
        assert await self._states(store, child) == [JobState.BLOCKED]
        await self.past(queue, self.short_delay)
        await self._run(queue, parent)
        await self._run(queue, child)

    @needs("dependencies")
    async def test_a_thousand_children_wait_for_one_parent(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        await queue.enqueue([parent])
        children = messages(1000, depends_on=after(parent))
        await self.enqueue_all(queue, children)
        blocked = JobFilter(states=frozenset({JobState.BLOCKED}))
        assert await store.count(blocked) == 1000
        await self._run(queue, parent)
        assert await store.count(blocked) == 0
        assert await store.count(JobFilter(states=frozenset({JobState.QUEUED}))) == 1000

    @needs("dependencies")
    async def test_parents_that_complete_at_the_same_time_never_leave_a_child_blocked(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        pairs = [messages(2) for _ in range(15)]
        children = [message("child", depends_on=after(*pair), queue="children") for pair in pairs]
        await queue.enqueue([*(one for pair in pairs for one in pair), *children])
        twin = queue.separate()
        await twin.open()
        try:
            held = {one.job_id: one for one in await self.receive(queue, 30)}
            for left, right in pairs:
                await asyncio.gather(
                    queue.complete([done(held[left.job_id])]),
                    twin.complete([done(held[right.job_id])]),
                )
        finally:
            await twin.close()
        assert await self._states(store, *children) == [JobState.QUEUED] * 15
        await self.receive(queue, 15, name="children")

    @needs("dependencies")
    async def test_a_parent_that_completes_while_its_child_is_enqueued_leaves_none_blocked(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        twin = queue.separate()
        await twin.open()
        try:
            for _ in range(10):
                held = await self.started(queue, message())
                child = message(depends_on=after(held.job_id), queue="children")
                await asyncio.gather(queue.complete([done(held)]), twin.enqueue([child]))
                await self.receive_one(queue, name="children")
        finally:
            await twin.close()
