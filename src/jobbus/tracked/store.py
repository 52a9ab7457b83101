"""The ledger half of a tracked queue: every verb of the state seam, passed on to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from jobbus.idempotency.store import IdempotencyStore, KeepsKeys
from jobbus.job import TERMINAL, Job, JobEvent, JobState, Progress
from jobbus.message import Delivery
from jobbus.movable import Departure, JobRecord, Movable, TakenOut
from jobbus.queue import BackgroundJobQueue
from jobbus.store import (
    CancelOutcome,
    JobFilter,
    JobStore,
    JobTypeRecord,
    Outbox,
    Page,
    QueueStatus,
    WorkerRecord,
)


class TrackingStore(BackgroundJobQueue, JobStore, Outbox, Movable, KeepsKeys, Protocol):
    """What can be the ledger of a broker: jobs, an outbox, a way out and in, room for keys."""


class LedgerVerbs:
    """Passes every verb of JobStore and Movable on to ``ledger``."""

    def __init__(self, ledger: TrackingStore) -> None:
        self.ledger = ledger

    def idempotency_store(self, ttl: timedelta) -> IdempotencyStore:
        """Idempotency keys are kept where the jobs are."""
        return self.ledger.idempotency_store(ttl)

    async def get(self, job_id: str) -> Job | None:
        return await self.ledger.get(job_id)

    async def find(self, where: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        return await self.ledger.find(where, limit=limit, cursor=cursor)

    async def counts(self, queue: str | None = None) -> Mapping[tuple[str, JobState], int]:
        return await self.ledger.counts(queue)

    async def count(self, where: JobFilter, *, cap: int = 10_000) -> int:
        return await self.ledger.count(where, cap=cap)

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        return await self.ledger.history(job_id)

    async def progress_history(self, job_id: str) -> Sequence[Progress]:
        return await self.ledger.progress_history(job_id)

    async def record_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        await self.ledger.record_progress(reports)

    async def cancel_requested(self, held: Sequence[Delivery]) -> frozenset[str]:
        return await self.ledger.cancel_requested(held)

    async def cancel(
        self, job_ids: Sequence[str], *, reason: str = ""
    ) -> Mapping[str, CancelOutcome]:
        return await self.ledger.cancel(job_ids, reason=reason)

    async def redrive(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self.ledger.redrive(job_ids)

    async def expedite(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self.ledger.expedite(job_ids)

    async def discard(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self.ledger.discard(job_ids)

    async def prune(
        self,
        *,
        finished_before: datetime,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        return await self.ledger.prune(finished_before=finished_before, states=states, limit=limit)

    async def trim(
        self,
        *,
        keep_count: int | None = None,
        keep_bytes: int | None = None,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        return await self.ledger.trim(
            keep_count=keep_count, keep_bytes=keep_bytes, states=states, limit=limit
        )

    async def queues(self) -> Sequence[QueueStatus]:
        return await self.ledger.queues()

    async def pause(self, queue: str, *, reason: str = "") -> None:
        await self.ledger.pause(queue, reason=reason)

    async def resume(self, queue: str) -> None:
        await self.ledger.resume(queue)

    async def purge(self, queue: str) -> int:
        return await self.ledger.purge(queue)

    async def announce(self, job_types: Sequence[JobTypeRecord]) -> None:
        await self.ledger.announce(job_types)

    async def job_types(self) -> Sequence[JobTypeRecord]:
        return await self.ledger.job_types()

    async def workers(self) -> Sequence[WorkerRecord]:
        return await self.ledger.workers()

    async def recover(self, *, expired_for: timedelta = timedelta(0)) -> int:
        return await self.ledger.recover(expired_for=expired_for)

    async def suspect(self, delivery: Delivery) -> bool:
        return await self.ledger.suspect(delivery)

    async def watch(self, *, lasting: timedelta) -> None:
        await self.ledger.watch(lasting=lasting)

    async def events(self, *, after: int) -> tuple[Sequence[JobEvent], int]:
        return await self.ledger.events(after=after)

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None = None
    ) -> TakenOut:
        """What the broker holds of these jobs starts nothing any more."""
        return await self.ledger.take_out(where, to=to, limit=limit, after=after)

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        return await self.ledger.take_in(records, origin=origin)

    async def departures(
        self, *, limit: int, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[Departure]:
        return await self.ledger.departures(limit=limit, after=after, ids=ids)

    async def note_arrival(self, job_ids: Sequence[str]) -> None:
        await self.ledger.note_arrival(job_ids)

    async def forget_departures(self, job_ids: Sequence[str]) -> None:
        await self.ledger.forget_departures(job_ids)
