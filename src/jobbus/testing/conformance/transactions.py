"""In the caller's own transaction: a job exists, or has ended, if and only if that commits."""

from __future__ import annotations

from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite, needs, where_leases_expire
from jobbus.testing.make import done, message, messages


class _Undone(Exception):
    """Ends a caller's transaction without a commit."""


class TransactionCases(Suite):
    """Joined where ``transactional`` is declared; refused where not."""

    @needs("transactional")
    async def test_a_job_exists_once_the_callers_transaction_commits(
        self, queue: BackgroundJobQueue
    ) -> None:
        batch = messages(3)
        async with self.transaction(queue) as connection:
            answered = await queue.enqueue(batch, connection=connection)
            assert list(answered) == [one.job_id for one in batch]
        held = await self.receive(queue, 3)
        assert {one.job_id for one in held} == {one.job_id for one in batch}

    @needs("transactional")
    async def test_a_job_never_existed_when_the_callers_transaction_rolls_back(
        self, queue: BackgroundJobQueue
    ) -> None:
        try:
            async with self.transaction(queue) as connection:
                await queue.enqueue([message()], connection=connection)
                raise _Undone
        except _Undone:
            await self.nothing_comes(queue)

    @needs("transactional")
    async def test_a_completion_counts_once_the_callers_transaction_commits(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        async with self.transaction(queue) as connection:
            assert not await queue.complete([done(held, b"1")], connection=connection)
        assert not await queue.complete([done(held, b"1")])
        if queue.capabilities.ledger:
            assert (await self.job(self.store_of(queue), held)).result == b"1"

    @needs("transactional")
    async def test_a_completion_is_undone_when_the_callers_transaction_rolls_back(
        self, queue: BackgroundJobQueue
    ) -> None:
        held = await self.started(queue, message())
        try:
            async with self.transaction(queue) as connection:
                assert not await queue.complete([done(held, b"1")], connection=connection)
                raise _Undone
        except _Undone:
            if queue.capabilities.ledger:
                assert (await self.job(self.store_of(queue), held)).state == "running"
        assert not await queue.complete([done(held, b"2")])

    @where_leases_expire
    @needs("transactional")
    async def test_a_late_worker_learns_of_its_loss_inside_its_transaction(
        self, queue: BackgroundJobQueue
    ) -> None:
        late = await self.started(queue, message(), lease=self.short_lease)
        await self.expire(queue)
        taker = await self.receive_one(queue)
        async with self.transaction(queue) as connection:
            assert list(await queue.complete([done(late)], connection=connection)) == [late]
        assert not await queue.complete([done(taker)])
