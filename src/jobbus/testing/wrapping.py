"""A queue around a queue: passes everything on, for test doubles that change one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, Self

from jobbus.job import TERMINAL, Job, JobEvent, JobState, Progress
from jobbus.message import (
    Abandonment,
    Capabilities,
    Completion,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    QueueDepth,
)
from jobbus.movable import Departure, JobRecord, Movable, TakenOut
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


class LedgerQueue(BackgroundJobQueue, JobStore, Protocol):
    """A queue that declares ``ledger``."""


class QueueWrapper:
    """Passes every verb of both seams on to ``inner``."""

    def __init__(self, inner: LedgerQueue) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    def separate(self) -> Self:
        twin = self.inner.separate()
        if not isinstance(twin, JobStore):
            raise TypeError(f"a separate {type(self.inner).__name__} is no longer a JobStore")
        return type(self)(twin)

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        return await self.inner.enqueue(messages, connection=connection)

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        return await self.inner.receive(queue, limit=limit, wait=wait, lease=lease)

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        return await self.inner.complete(done, connection=connection)

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        return await self.inner.abandon(back)

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        return await self.inner.dead_letter(dead)

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        return await self.inner.extend(held, lease)

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        return await self.inner.get_queue_depth(queue)

    async def get(self, job_id: str) -> Job | None:
        return await self.inner.get(job_id)

    async def find(self, where: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        return await self.inner.find(where, limit=limit, cursor=cursor)

    async def counts(self, queue: str | None = None) -> Mapping[tuple[str, JobState], int]:
        return await self.inner.counts(queue)

    async def count(self, where: JobFilter, *, cap: int = 10_000) -> int:
        return await self.inner.count(where, cap=cap)

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        return await self.inner.history(job_id)

    async def progress_history(self, job_id: str) -> Sequence[Progress]:
        return await self.inner.progress_history(job_id)

    async def record_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        await self.inner.record_progress(reports)

    async def cancel_requested(self, held: Sequence[Delivery]) -> frozenset[str]:
        return await self.inner.cancel_requested(held)

    async def cancel(
        self, job_ids: Sequence[str], *, reason: str = ""
    ) -> Mapping[str, CancelOutcome]:
        return await self.inner.cancel(job_ids, reason=reason)

    async def redrive(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self.inner.redrive(job_ids)

    async def expedite(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self.inner.expedite(job_ids)

    async def discard(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self.inner.discard(job_ids)

    async def prune(
        self,
        *,
        finished_before: datetime,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        return await self.inner.prune(finished_before=finished_before, states=states, limit=limit)

    async def trim(
        self,
        *,
        keep_count: int | None = None,
        keep_bytes: int | None = None,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        return await self.inner.trim(
            keep_count=keep_count, keep_bytes=keep_bytes, states=states, limit=limit
        )

    async def queues(self) -> Sequence[QueueStatus]:
        return await self.inner.queues()

    async def pause(self, queue: str, *, reason: str = "") -> None:
        await self.inner.pause(queue, reason=reason)

    async def resume(self, queue: str) -> None:
        await self.inner.resume(queue)

    async def purge(self, queue: str) -> int:
        return await self.inner.purge(queue)

    async def announce(self, job_types: Sequence[JobTypeRecord]) -> None:
        await self.inner.announce(job_types)

    async def job_types(self) -> Sequence[JobTypeRecord]:
        return await self.inner.job_types()

    async def workers(self) -> Sequence[WorkerRecord]:
        return await self.inner.workers()

    async def recover(self, *, expired_for: timedelta = timedelta(0)) -> int:
        return await self.inner.recover(expired_for=expired_for)

    async def suspect(self, delivery: Delivery) -> bool:
        return await self.inner.suspect(delivery)

    async def watch(self, *, lasting: timedelta) -> None:
        await self.inner.watch(lasting=lasting)

    async def events(self, *, after: int) -> tuple[Sequence[JobEvent], int]:
        return await self.inner.events(after=after)


class MovableQueue(LedgerQueue, Movable, Protocol):
    """A queue that declares ``ledger``, and whose jobs can be moved."""


class MovableWrapper(QueueWrapper):
    """Passes the verbs of :class:`~jobbus.movable.Movable` on as well."""

    inner: MovableQueue

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None = None
    ) -> TakenOut:
        return await self.inner.take_out(where, to=to, limit=limit, after=after)

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        return await self.inner.take_in(records, origin=origin)

    async def departures(
        self, *, limit: int, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[Departure]:
        return await self.inner.departures(limit=limit, after=after, ids=ids)

    async def note_arrival(self, job_ids: Sequence[str]) -> None:
        await self.inner.note_arrival(job_ids)

    async def forget_departures(self, job_ids: Sequence[str]) -> None:
        await self.inner.forget_departures(job_ids)
