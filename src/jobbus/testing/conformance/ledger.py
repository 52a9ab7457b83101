"""What the ledger knows of a job, and how jobs are found and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
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
from jobbus.testing.make import back, dead, done, message, messages, problem, stopped


class LedgerCases(Suite):
    """One job, from its enqueueing to its end."""

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
        assert job.state is JobState.QUEUED
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


Settle = Callable[[], Awaitable[object]]


class FindCases(Suite):
    """Filters, pages and counts."""

    async def _ids(self, store: JobStore, where: JobFilter) -> set[str]:
        page = await store.find(where, limit=100)
        assert page.cursor is None
        assert await store.count(where) == len(page.jobs)
        return {job.id for job in page.jobs}

    async def test_an_empty_filter_finds_everything(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = [*messages(3), message(queue="video"), message(delay=self.long_delay)]
        await queue.enqueue(batch)
        assert await self._ids(store, JobFilter()) == {one.job_id for one in batch}

    @pytest.mark.parametrize(
        ("where", "wanted"),
        [
            (JobFilter(queue="video"), "bc"),
            (JobFilter(job_type="email.send"), "a"),
            (JobFilter(job_type="email.*"), "ab"),
            (JobFilter(job_type="email"), ""),
            (JobFilter(job_type="*"), "abcd"),
            (JobFilter(job_type="e%.send"), ""),
            (JobFilter(job_type="email_send"), ""),
            (JobFilter(tag="nightly"), "ac"),
            (JobFilter(tag="night"), ""),
            (JobFilter(states=frozenset({JobState.QUEUED})), "abc"),
            (JobFilter(states=frozenset({JobState.SCHEDULED, JobState.RUNNING})), "d"),
            (JobFilter(queue="video", tag="nightly"), "c"),
            (JobFilter(queue="nowhere"), ""),
        ],
        ids=[
            "queue",
            "type",
            "type prefix",
            "prefix without star",
            "every type",
            "no percent wildcard",
            "no underscore wildcard",
            "tag",
            "part of a tag",
            "state",
            "states",
            "conjunction",
            "unknown queue",
        ],
    )
    async def test_a_filter_finds_what_it_names_and_nothing_else(
        self, queue: BackgroundJobQueue, store: JobStore, where: JobFilter, wanted: str
    ) -> None:
        batch = {
            "a": message("email.send", tags=("nightly",)),
            "b": message("email.digest", queue="video", tags=("daily",)),
            "c": message("emails", queue="video", tags=("daily", "nightly")),
            "d": message("video.render", delay=self.long_delay),
        }
        await queue.enqueue(list(batch.values()))
        assert await self._ids(store, where) == {batch[name].job_id for name in wanted}

    async def test_jobs_are_found_by_their_ids(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(4)
        await queue.enqueue(batch)
        wanted = (batch[0].job_id, batch[2].job_id, new_id())
        assert await self._ids(store, JobFilter(ids=wanted)) == set(wanted[:2])

    async def test_children_are_found_by_their_parent(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        parent = message()
        children = messages(2, parent_id=parent.job_id)
        await queue.enqueue([parent, *children, message(parent_id=new_id())])
        found = await self._ids(store, JobFilter(parent_id=parent.job_id))
        assert found == {one.job_id for one in children}

    async def test_members_of_a_group_are_found_by_its_name(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        if not queue.capabilities.ordered_groups:
            pytest.skip("does not declare ordered_groups")
        members = messages(2, group="a")
        await queue.enqueue([*members, message(group="b"), message()])
        assert await self._ids(store, JobFilter(group="a")) == {one.job_id for one in members}

    async def test_jobs_are_found_by_when_they_were_created(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        early, middle, late = messages(3)
        await queue.enqueue([early])
        await self.past(queue, self.tick)
        await queue.enqueue([middle])
        await self.past(queue, self.tick)
        await queue.enqueue([late])
        at = (await self.job(store, middle)).created_at
        before, behind = at - self.tick / 2, at + self.tick / 2
        after_that = await self._ids(store, JobFilter(created_after=behind))
        before_that = await self._ids(store, JobFilter(created_before=before))
        between = JobFilter(created_after=before, created_before=behind)
        assert (after_that, before_that) == ({late.job_id}, {early.job_id})
        assert await self._ids(store, between) == {middle.job_id}

    async def test_jobs_are_found_newest_first(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(5)
        for one in batch:
            await queue.enqueue([one])
            await self.pass_time(queue, timedelta(milliseconds=1))
        page = await store.find(JobFilter())
        assert [job.id for job in page.jobs] == [one.job_id for one in reversed(batch)]

    async def test_pages_are_complete_and_without_repetition(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(23)
        await self.enqueue_all(queue, batch)
        pages = await self._pages(store, JobFilter(), limit=5)
        assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
        ids = [job.id for page in pages for job in page]
        assert Counter(ids) == Counter(one.job_id for one in batch)

    async def test_pages_stay_whole_while_new_jobs_arrive(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(12)
        await self.enqueue_all(queue, batch)
        await self.pass_time(queue, timedelta(milliseconds=1))

        async def disturb() -> None:
            await queue.enqueue(messages(2))

        pages = await self._pages(store, JobFilter(), limit=5, between=disturb)
        ids = [job.id for page in pages for job in page]
        assert len(ids) == len(set(ids))
        assert set(ids) >= {one.job_id for one in batch}

    async def test_pages_stay_whole_while_jobs_end(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        batch = messages(12)
        await self.enqueue_all(queue, batch)

        async def disturb() -> None:
            await queue.complete([done(one) for one in await self.receive(queue, 2)])

        pages = await self._pages(store, JobFilter(), limit=5, between=disturb)
        assert Counter(job.id for page in pages for job in page) == Counter(
            one.job_id for one in batch
        )

    async def _pages(
        self, store: JobStore, where: JobFilter, *, limit: int, between: Settle | None = None
    ) -> list[Sequence[Job]]:
        pages = []
        cursor: str | None = None
        while True:
            page = await store.find(where, limit=limit, cursor=cursor)
            pages.append(page.jobs)
            cursor = page.cursor
            if cursor is None:
                return pages
            assert len(pages) < 100, "the pages do not end"
            if between is not None:
                await between()

    @pytest.mark.parametrize("cursor", ["", "zzz", "42", "é", "'; --", "AAAA" * 50])
    async def test_a_cursor_that_is_not_ours_is_refused(
        self, queue: BackgroundJobQueue, store: JobStore, cursor: str
    ) -> None:
        await queue.enqueue(messages(2))
        with pytest.raises(ValueError, match="cursor"):
            await store.find(JobFilter(), cursor=cursor)

    async def test_counting_stops_at_its_cap(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(5))
        assert await store.count(JobFilter()) == 5
        assert await store.count(JobFilter(), cap=3) == 3

    async def test_jobs_are_counted_by_queue_and_state(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue([*messages(4), message(delay=self.long_delay), message(queue="video")])
        held = await self.receive(queue, 3)
        await queue.complete([done(held[0])])
        await queue.dead_letter([dead(held[1])])
        expected = {
            ("default", JobState.QUEUED): 1,
            ("default", JobState.RUNNING): 1,
            ("default", JobState.COMPLETED): 1,
            ("default", JobState.FAILED): 1,
            ("default", JobState.SCHEDULED): 1,
            ("video", JobState.QUEUED): 1,
        }
        everywhere = await store.counts()
        assert {key: number for key, number in everywhere.items() if number} == expected
        of_video = await store.counts("video")
        assert {key: number for key, number in of_video.items() if number} == {
            ("video", JobState.QUEUED): 1
        }
