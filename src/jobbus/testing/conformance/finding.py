"""How jobs are found, page by page, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest

from jobbus.ids import new_id
from jobbus.job import Job, JobState
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter, JobStore
from jobbus.testing.conformance.base import Suite
from jobbus.testing.make import dead, done, message, messages

Disturbance = Callable[[], Awaitable[object]]


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
            (JobFilter(states=frozenset({JobState.CREATED, JobState.QUEUED})), "abc"),
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
        self, store: JobStore, where: JobFilter, *, limit: int, between: Disturbance | None = None
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
            ("default", self.ready_state): 1,
            ("default", JobState.RUNNING): 1,
            ("default", JobState.COMPLETED): 1,
            ("default", JobState.FAILED): 1,
            ("default", JobState.SCHEDULED): 1,
            ("video", self.ready_state): 1,
        }
        everywhere = await store.counts()
        assert {key: number for key, number in everywhere.items() if number} == expected
        of_video = await store.counts("video")
        assert {key: number for key, number in of_video.items() if number} == {
            ("video", self.ready_state): 1
        }
