"""The half of the bus that looks at jobs and steers them: one method for each thing people do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import JobFailed, JobNotFound, Unsupported, WaitTimeout
from jobbus.job import TERMINAL, UNFINISHED, Job, JobEvent, JobState, Progress
from jobbus.message import QueueDepth
from jobbus.queue import BackgroundJobQueue
from jobbus.store import (
    CancelOutcome,
    JobFilter,
    JobStore,
    JobTypeRecord,
    Page,
    QueueStatus,
    WorkerRecord,
)

if TYPE_CHECKING:
    from jobbus.settings import Settings

_PAGE: Final = 200
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
_WATCH: Final = timedelta(seconds=10)
_EVENT_PAUSE: Final = 0.1


class Ledger(ABC):
    """What a bus knows of its jobs. Everything here needs a backend with a ledger."""

    @property
    @abstractmethod
    def settings(self) -> Settings: ...

    @property
    @abstractmethod
    def store(self) -> JobStore: ...

    @property
    @abstractmethod
    def queue(self) -> BackgroundJobQueue: ...

    @abstractmethod
    async def open(self) -> None: ...

    async def get(self, job_id: str) -> Job | None:
        """The job, or None."""
        await self.open()
        return await self.store.get(job_id)

    async def get_status(self, job_id: str) -> JobState | None:
        """Where the job stands, or None."""
        job = await self.get(job_id)
        return None if job is None else job.state

    async def find(
        self, where: JobFilter | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """A page of jobs, newest first. Raises ValueError for a cursor that is not ours."""
        await self.open()
        return await self.store.find(where or JobFilter(), limit=limit, cursor=cursor)

    async def find_all(self, where: JobFilter | None = None) -> AsyncIterator[Job]:
        """All that match, newest first, read in pages."""
        cursor: str | None = None
        while True:
            page = await self.find(where, limit=_PAGE, cursor=cursor)
            for job in page.jobs:
                yield job
            cursor = page.cursor
            if cursor is None:
                return

    async def count(self, where: JobFilter | None = None, *, cap: int = 10_000) -> int:
        """How many match, counting no further than ``cap``."""
        await self.open()
        return await self.store.count(where or JobFilter(), cap=cap)

    async def counts(self, queue: str | None = None) -> Mapping[tuple[str, JobState], int]:
        """Jobs by queue and state."""
        await self.open()
        return await self.store.counts(queue)

    async def stats(self) -> dict[str, int]:
        """Jobs by state, over all queues, with ``total``, ``waiting``, ``active`` and ``dead``."""
        numbers = {state.value: 0 for state in JobState}
        for (_, state), number in (await self.counts()).items():
            numbers[state.value] += number
        return {
            **numbers,
            "total": sum(numbers.values()),
            "waiting": numbers["created"] + numbers["queued"],
            "active": numbers["running"],
            "dead": numbers["failed"] + numbers["timed_out"],
        }

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        """All that happened to the job, oldest first."""
        await self.open()
        return await self.store.history(job_id)

    async def progress_history(self, job_id: str) -> Sequence[Progress]:
        """All progress that the job reported, oldest first."""
        await self.open()
        return await self.store.progress_history(job_id)

    async def cancel(
        self, *job_ids: str, reason: str = "", children: bool = False
    ) -> Mapping[str, CancelOutcome]:
        """Cancel jobs that wait; ask running ones to stop. With ``children``, theirs too."""
        await self.open()
        wanted = list(job_ids)
        if children:
            for job_id in wanted:  # grows while it is walked, which reaches grandchildren
                unfinished = JobFilter(parent_id=job_id, states=UNFINISHED)
                wanted += [job.id async for job in self.find_all(unfinished)]
        return await self.store.cancel(wanted, reason=reason)

    async def abort_all(
        self, where: JobFilter | None = None, *, reason: str = "", dry_run: bool = False
    ) -> int:
        """Cancel everything unfinished that matches; return how many were, or would be."""
        await self.open()
        asked = where or JobFilter()
        states = (asked.states & UNFINISHED) if asked.states else UNFINISHED
        if not states:
            return 0
        ids = [job.id async for job in self.find_all(replace(asked, states=states))]
        if dry_run:
            return len(ids)
        affected = 0
        for start in range(0, len(ids), _PAGE):
            outcomes = await self.store.cancel(ids[start : start + _PAGE], reason=reason)
            affected += sum(
                outcome in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED)
                for outcome in outcomes.values()
            )
        return affected

    async def retry(self, *job_ids: str) -> list[str]:
        """Run these again: ended ones anew, waiting ones at once. Returns those it could."""
        return [*await self.redrive(*job_ids), *await self.store.expedite(job_ids)]

    async def redrive(self, *job_ids: str) -> list[str]:
        """Start a new generation of ended jobs that did not complete; return those it could."""
        await self.open()
        return list(await self.store.redrive(job_ids))

    async def discard(self, *job_ids: str) -> list[str]:
        """Delete ended jobs with all their traces; return those it could."""
        await self.open()
        return list(await self.store.discard(job_ids))

    async def cleanup(self, older_than: timedelta) -> int:
        """Delete jobs that ended longer ago than that; return how many."""
        await self.open()
        before = datetime.now(UTC) - older_than
        removed = 0
        while page := await self.store.prune(finished_before=before):
            removed += page
        return removed

    async def recover_stuck(self, older_than: timedelta = timedelta(0)) -> int:
        """Take back jobs whose lease ran out longer ago than that; return how many.

        Workers do this by themselves; a live lease is never touched.
        """
        await self.open()
        return await self.store.recover(expired_for=older_than)

    async def wait(self, job_id: str, *, timeout: timedelta | None = None) -> Job:  # noqa: ASYNC109
        """The job, once it has ended. Raises JobNotFound, and WaitTimeout after ``timeout``."""
        seconds = None if timeout is None else timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                async for job in self.watch(job_id):
                    if job.state.terminal:
                        return job
        except TimeoutError as error:
            raise WaitTimeout(f"job {job_id} had not ended after {seconds:g} s") from error
        raise JobNotFound(f"job {job_id} was deleted while it was waited for")

    async def result_bytes(self, job_id: str, wait: timedelta) -> bytes | None:
        """The encoded result, once there is one.

        Raises JobFailed when the job ended otherwise, JobNotFound, and WaitTimeout.
        """
        job = await self.wait(job_id, timeout=wait)
        if job.state is JobState.COMPLETED:
            return job.result
        told = f": {job.problem.kind}: {job.problem.message}" if job.problem else ""
        raise JobFailed(f"job {job_id} ended {job.state}{told}")

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job as it is now, and again at each change, until it has ended.

        Raises JobNotFound when there is no such job.
        """
        seen: Job | None = None
        pause = _FIRST_PAUSE
        while True:
            job = await self.get(job_id)
            if job is None:
                if seen is None:
                    raise JobNotFound(f"no job {job_id} is known")
                return
            if job != seen:
                seen = job
                pause = _FIRST_PAUSE
                yield job
            if job.state in TERMINAL:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def events(self) -> AsyncIterator[JobEvent]:
        """All job events from now on, on every process; a live stream, for as long as it is read.

        While nobody reads one, no process writes it, so that it costs nothing. Others notice
        within a second. What must be exact is in :meth:`history`. Raises Unsupported where the
        settings say that no log is to be written.
        """
        if self.settings.event_log == "never":
            raise Unsupported("live events are off: set BACKGROUND_JOBS__EVENT_LOG=watched")
        await self.open()
        await self.store.watch(lasting=_WATCH)
        _, position = await self.store.events(after=0)
        loop = asyncio.get_running_loop()
        renewal = loop.time() + _WATCH.total_seconds() / 2
        while True:
            events, position = await self.store.events(after=position)
            for event in events:
                yield event
            if loop.time() >= renewal:
                await self.store.watch(lasting=_WATCH)
                renewal = loop.time() + _WATCH.total_seconds() / 2
            if not events:
                await asyncio.sleep(_EVENT_PAUSE)

    async def queues(self) -> Sequence[QueueStatus]:
        """Every queue that has jobs, was paused, or that a job type names."""
        await self.open()
        return await self.store.queues()

    async def pause(self, queue: str, *, reason: str = "") -> None:
        """Hand nothing of this queue out until :meth:`resume`. Running jobs go on."""
        await self.open()
        await self.store.pause(queue, reason=reason)

    async def resume(self, queue: str) -> None:
        """Hand jobs of this queue out again."""
        await self.open()
        await self.store.resume(queue)

    async def purge(self, queue: str) -> int:
        """Delete every job of the queue that has not started; return how many."""
        await self.open()
        return await self.store.purge(queue)

    async def depth(self, queue: str = "default") -> QueueDepth:
        """How much waits, runs and lies dead in the queue."""
        await self.open()
        return await self.queue.get_queue_depth(queue)

    async def workers(self) -> Sequence[WorkerRecord]:
        """Worker processes seen in the last hour."""
        await self.open()
        return await self.store.workers()

    async def job_types(self) -> Sequence[JobTypeRecord]:
        """What workers have announced that they run."""
        await self.open()
        return await self.store.job_types()

    # the names that S3 and S4 used for the same things

    async def get_job(self, job_id: str) -> Job | None:
        """The same as :meth:`get`."""
        return await self.get(job_id)

    async def get_queue_depth(self, queue: str = "default") -> int:
        """Jobs that are ready to run, as a plain number."""
        return (await self.depth(queue)).ready

    async def get_active(self, **kwargs: Any) -> Page:
        """A page of the jobs that have not ended."""
        return await self.find(JobFilter(states=UNFINISHED), **kwargs)
