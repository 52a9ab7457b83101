"""Texts that people, handlers and attackers write: none of them may break the ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobbus.errors import InvalidJob, JobbusError
from jobbus.job import JobState, Problem, Progress
from jobbus.message import NO_DELAY, Completion, DeadLetter, QueueDepth
from jobbus.queue import BackgroundJobQueue
from jobbus.store import CancelOutcome, JobFilter, JobStore
from jobbus.testing.conformance.base import Suite
from jobbus.testing.make import back, message

TEXTS = {
    "NUL": "before\x00after",
    "lone surrogate": "before\ud800after",
    "quotes": "before'; DROP TABLE background_jobs; -- \\\" after",
    "emoji": "before 👩‍🚀 after",
    "placeholders": "before %s %(name)s :name ? {0} $1 after",
    "long": "before " + "x" * 100_000 + " after",
    "line ends": "before\r\n\u2028\x1b[31mafter",
}


every_text = pytest.mark.parametrize("kind", sorted(TEXTS))


class TextCases(Suite):
    """A text that cannot be kept as it is may be mended, but what it came with goes through."""

    def _problem(self, kind: str) -> Problem:
        text = TEXTS[kind]
        return Problem(kind="ValueError", message=text, traceback=f"File {text}")

    def _is_told(self, problem: Problem | None) -> None:
        assert problem is not None
        assert problem.kind == "ValueError"
        assert problem.message.startswith("before")
        assert problem.traceback is not None

    @every_text
    async def test_a_dead_letter_goes_through_whatever_its_problem_says(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        held = await self.started(queue, message())
        dead = DeadLetter(delivery=held, problem=self._problem(kind))
        assert not await queue.dead_letter([dead])
        job = await self.job(store, held)
        assert job.state is JobState.FAILED
        self._is_told(job.problem)
        assert await store.history(held.job_id)

    @every_text
    async def test_a_retry_goes_through_whatever_its_problem_says(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        held = await self.started(queue, message())
        assert not await queue.abandon([replace(back(held), problem=self._problem(kind))])
        self._is_told((await self.job(store, held)).problem)
        assert (await self.receive_one(queue)).failures == 1
        assert await store.history(held.job_id)

    @every_text
    async def test_a_cancellation_goes_through_whatever_its_reason_says(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        text = TEXTS[kind]
        held = await self.started(queue, message())
        [waiting] = await queue.enqueue([message()])
        assert await store.cancel([waiting, held.job_id], reason=text) == {
            waiting: CancelOutcome.CANCELLED,
            held.job_id: CancelOutcome.REQUESTED,
        }
        stopped = Completion(delivery=held, cancelled=True, reason=text)
        assert not await queue.complete([stopped])
        assert (await self.job(store, held)).state is JobState.CANCELLED
        assert (await store.history(held.job_id))[-1].reason.startswith("before")

    @every_text
    async def test_a_queue_is_paused_whatever_the_reason_says(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        await store.pause("default", reason=TEXTS[kind])
        [status] = [one for one in await store.queues() if one.name == "default"]
        assert status.paused
        assert status.reason.startswith("before")

    @every_text
    async def test_progress_is_recorded_whatever_it_says(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        text = TEXTS[kind]
        held = await self.started(queue, message())
        report = Progress(percent=50, stage=text, message=text)
        await store.record_progress([(held, report)])
        shown = (await self.job(store, held)).progress
        assert shown is not None
        assert shown.stage.startswith("before")
        assert len(await store.progress_history(held.job_id)) == 1

    @every_text
    async def test_what_a_message_says_is_kept_as_it_is_or_refused(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        text = TEXTS[kind]
        sayings: list[dict[str, Any]] = [
            {"headers": {"x": text}},
            {"tags": (text,)},
            {"metadata": {"x": [text]}},
            {"group": text},
            {"unique_key": text},
        ]
        for said in sayings:
            sent = message(**said)
            try:
                await queue.enqueue([sent])
            except InvalidJob:
                assert await store.get(sent.job_id) is None
                continue
            [place] = said
            assert getattr(await self.job(store, sent), place) == said[place]
            held = await self.receive_one(queue)
            assert held.job_id == sent.job_id
            assert getattr(held.message, place) == said[place]

    @every_text
    async def test_a_filter_with_it_finds_nothing(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        await queue.enqueue([message(group="g", tags=("t",))])
        for place in ("queue", "job_type", "tag", "group", "parent_id"):
            conditions: dict[str, Any] = {place: TEXTS[kind]}
            where = JobFilter(**conditions)
            assert not (await store.find(where)).jobs
            assert await store.count(where) == 0

    @every_text
    async def test_a_queue_named_like_it_is_empty_or_refused_by_name(
        self, queue: BackgroundJobQueue, store: JobStore, kind: str
    ) -> None:
        await queue.enqueue([message()])
        name = TEXTS[kind]
        try:
            held = await queue.receive(name, limit=1, wait=NO_DELAY, lease=self.long_lease)
            depth = await queue.get_queue_depth(name)
            purged = await store.purge(name)
        except JobbusError:
            held, depth, purged = [], QueueDepth(ready=0), 0
        assert (list(held), depth.ready, purged) == ([], 0, 0)
        assert (await self.receive_one(queue)).attempt == 1
