"""What the ledger knows of a job, from its enqueueing to its end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobbus.errors import InvalidJob
from jobbus.ids import new_id
from jobbus.job import Job, JobState
from jobbus.message import Message
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter, JobStore
from jobbus.testing.conformance.base import Suite
from jobbus.testing.make import back, dead, done, message, problem, stopped


class LedgerCases(Suite):
    """One job at a time."""

    async def test_an_unknown_job_is_none(self, queue: BackgroundJobQueue, store: JobStore) -> None:
        assert await store.get(new_id()) is None

    @pytest.mark.parametrize("text", ["", "42", "not-a-uuid", "'; --", "\x00", "é" * 36])
    async def test_an_id_that_is_no_uuid_is_no_job(
        self, queue: BackgroundJobQueue, store: JobStore, text: str
    ) -> None:
        assert await store.get(text) is None

    async def test_a_message_whose_id_is_no_uuid_is_refused(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        with pytest.raises(InvalidJob):
            await queue.enqueue([message(), message(job_id="job-42")])
        assert await store.count(JobFilter()) == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"delay": timedelta(seconds=-1)},
            {"priority": 0},
            {"priority": 11},
            {"max_attempts": 0},
            {"max_crashes": 0},
            {"queue": ""},
            {"queue": "a\x00b"},
            {"job_type": ""},
            {"parent_id": "job-42"},
        ],
        ids=repr,
    )
    async def test_a_message_that_can_never_be_right_is_refused_with_its_whole_batch(
        self, queue: BackgroundJobQueue, store: JobStore, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidJob):
            await queue.enqueue([message(), message(**wrong)])
        assert await store.count(JobFilter()) == 0

    async def test_the_ledger_keeps_all_that_was_asked_for(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        sent = message(
            "video.render",
            payload=b"\x00\xff",
            queue="video",
            headers={"tenant": "7"},
            priority=8,
            max_attempts=9,
            timeout=timedelta(minutes=3),
            tags=("a", "b"),
            metadata={"source": {"name": "é"}},
        )
        await queue.enqueue([sent])
        job = await self.job(store, sent)
        assert self._echo(job, sent) == sent
        assert (job.attempt, job.failures, job.crashes, job.snoozes) == (0, 0, 0, 0)
        assert (job.generation, job.cancel_requested) == (1, False)
        assert (job.started_at, job.finished_at, job.worker) == (None, None, None)
        assert (job.progress, job.result, job.problem) == (None, None, None)

    def _echo(self, job: Job, sent: Message) -> Message:
        return replace(
            sent,
            job_id=job.id,
            job_type=job.job_type,
            payload=job.payload,
            queue=job.queue,
            headers=dict(job.headers),
            priority=job.priority,
            max_attempts=job.max_attempts,
            timeout=job.timeout,
            tags=job.tags,
            metadata=dict(job.metadata),
        )

    async def test_a_job_that_may_run_is_queued(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        sent = message()
        await queue.enqueue([sent])
        job = await self.job(store, sent)
        assert job.state is self.ready_state
        assert abs(job.created_at - self.now(queue)) < self.patience
        assert job.created_at.tzinfo is not None

    async def test_a_delayed_job_is_scheduled_and_says_for_when(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        sent = message(delay=self.long_delay)
        await queue.enqueue([sent])
        job = await self.job(store, sent)
        assert job.state is JobState.SCHEDULED
        assert job.run_at - job.created_at == self.long_delay

    async def test_a_received_job_is_running_and_says_where_and_since_when(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        job = await self.job(store, held)
        assert job.state is JobState.RUNNING
        assert job.attempt == held.attempt == 1
        assert job.worker
        assert job.started_at is not None
        assert job.started_at >= job.created_at
        assert job.finished_at is None

    @pytest.mark.parametrize("result", [None, b"", b"null", b"\x00\xff", b'{"a": 1}'])
    async def test_a_completed_job_keeps_its_result_verbatim(
        self, queue: BackgroundJobQueue, store: JobStore, result: bytes | None
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held, result)])
        job = await self.job(store, held)
        assert job.state is JobState.COMPLETED
        assert job.result == result
        assert job.problem is None
        assert job.started_at is not None
        assert job.finished_at is not None
        assert job.finished_at >= job.started_at

    async def test_the_first_of_two_completions_gives_the_result(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held, b"first")])
        await queue.complete([done(held, b"second")])
        assert (await self.job(store, held)).result == b"first"

    async def test_a_completion_that_says_cancelled_cancels(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([stopped(held, "by the user")])
        job = await self.job(store, held)
        assert job.state is JobState.CANCELLED
        assert job.finished_at is not None

    @pytest.mark.parametrize(
        ("timed_out", "state"), [(False, JobState.FAILED), (True, JobState.TIMED_OUT)]
    )
    async def test_a_dead_letter_keeps_its_problem(
        self, queue: BackgroundJobQueue, store: JobStore, timed_out: bool, state: JobState
    ) -> None:
        held = await self.started(queue, message())
        await queue.dead_letter([dead(held, timed_out=timed_out)])
        job = await self.job(store, held)
        assert job.state is state
        assert job.problem == problem()
        assert job.finished_at is not None

    async def test_a_retrying_job_keeps_the_problem_of_its_last_attempt(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, self.long_delay)])
        job = await self.job(store, held)
        assert job.state is JobState.RETRYING
        assert job.problem == problem()
        assert job.finished_at is None

    async def test_a_job_that_missed_its_deadline_is_expired(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        if not queue.capabilities.expiry:
            pytest.skip("does not declare expiry")
        sent = message(expires_at=self.now(queue) + self.short_delay)
        await queue.enqueue([sent])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)
        await store.recover()
        job = await self.job(store, sent)
        assert job.state is JobState.EXPIRED
        assert job.finished_at is not None
