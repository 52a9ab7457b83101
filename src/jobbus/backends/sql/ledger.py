"""The ledger half of a SQL backend: every verb of :class:`~jobbus.store.JobStore`."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from jobbus.ids import parse_id
from jobbus.job import TERMINAL, Job, JobEvent, JobState, Progress
from jobbus.message import Delivery
from jobbus.store import (
    CancelOutcome,
    JobFilter,
    JobTypeRecord,
    Page,
    QueueStatus,
    WorkerRecord,
)

from . import claims, inspection, maintenance, steering
from .callers import CallerSql
from .idempotency import SqlIdempotencyStore
from .identity import RELAY, provably_dead
from .program import Call, Dialect, Many, Program, Scope
from .rows import mended, progress_text
from .statements import Naming
from .tally import Limits
from .trimming import Trimming

T = TypeVar("T")
_NOTICE_INTERVAL = 1.0


class SqlLedger(ABC):
    """Looks at jobs and steers them, by running programs."""

    def __init__(self) -> None:
        self._watched = False
        self._relayed = False
        self._next_notice = 0.0
        self._trimming = Trimming(self._run, lambda moment: self.dialect.write_moment(moment))

    @property
    @abstractmethod
    def dialect(self) -> Dialect: ...

    @property
    @abstractmethod
    def naming(self) -> Naming: ...

    @abstractmethod
    async def _run(
        self,
        make: Callable[[], Program[T]],
        *,
        write: bool = True,
        atomic: bool = True,
    ) -> T:
        """Run a program: ``atomic`` in a transaction, else statement by statement."""

    @abstractmethod
    def _announce_ready(self, queues: Iterable[str]) -> None: ...

    @abstractmethod
    def _caller_sql(self) -> CallerSql: ...

    @property
    @abstractmethod
    def _job_columns(self) -> str: ...

    # idempotency keys, beside the jobs

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def separate(self) -> SqlLedger: ...

    @property
    def caller_sql(self) -> CallerSql:
        """What it takes to run programs on a caller's connection."""
        return self._caller_sql()

    async def run_program(self, make: Callable[[], Program[T]], *, write: bool) -> T:
        """Run a program whose statements may commit one by one."""
        return await self._run(make, write=write, atomic=False)

    def idempotency_store(self, ttl: timedelta) -> SqlIdempotencyStore:
        """Where idempotency keys are kept; open while this queue is."""
        return SqlIdempotencyStore(self, ttl)

    @property
    def _scope(self) -> Scope:
        return Scope(self.dialect, self._watched, self._relayed)

    async def _notice_watchers(self) -> None:
        """See once a second, in a process that does not receive, whether anybody follows events."""
        now = time.monotonic()
        if now >= self._next_notice:
            self._next_notice = now + _NOTICE_INTERVAL
            self._watched = (await self._run(maintenance.look, write=False)).watched

    async def get(self, job_id: str) -> Job | None:
        known = parse_id(job_id)
        if known is None:
            return None
        return await self._run(lambda: inspection.get(known, self._scope), write=False)

    async def find(self, where: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        from . import queries

        sql, parameters = queries.find(
            where,
            limit=limit,
            cursor=cursor,
            scope=self._scope,
            naming=self.naming,
            columns=self._job_columns,
        )
        return await self._run(
            lambda: inspection.find(sql, parameters, limit, self._scope), write=False
        )

    async def counts(self, queue: str | None = None) -> Mapping[tuple[str, JobState], int]:
        rows = await self._run(lambda: _rows(Call("counts", {"queue": queue})), write=False)
        return {(name, JobState(state)): number for name, state, number in rows}

    async def count(self, where: JobFilter, *, cap: int = 10_000) -> int:
        from . import queries

        sql, parameters = queries.count(where, cap=cap, scope=self._scope, naming=self.naming)
        rows = await self._run(lambda: _rows(Call("count", parameters, sql)), write=False)
        return int(rows[0][0])

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        known = parse_id(job_id)
        if known is None:
            return []
        return await self._run(lambda: inspection.history(known, self._scope), write=False)

    async def progress_history(self, job_id: str) -> Sequence[Progress]:
        known = parse_id(job_id)
        if known is None:
            return []
        return await self._run(lambda: inspection.progress(known, self._scope), write=False)

    async def record_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        if reports:
            await self._run(lambda: _record_progress(reports))

    async def cancel_requested(self, held: Sequence[Delivery]) -> frozenset[str]:
        if not held:
            return frozenset()
        return await self._run(lambda: claims.cancel_requested(held), write=False)

    async def cancel(
        self, job_ids: Sequence[str], *, reason: str = ""
    ) -> Mapping[str, CancelOutcome]:
        names = {job_id: parse_id(job_id) for job_id in job_ids}
        known = [name for name in names.values() if name]
        await self._notice_watchers()
        found = await self._run(lambda: steering.cancel(known, reason=reason, scope=self._scope))
        self._announce_ready(["*"])
        return {
            job_id: found[name] if name else CancelOutcome.NOT_FOUND
            for job_id, name in names.items()
        }

    async def redrive(self, job_ids: Sequence[str]) -> Sequence[str]:
        await self._notice_watchers()
        done = await self._run(lambda: steering.redrive(_known(job_ids), self._scope))
        self._announce_ready(["*"])
        return done

    async def expedite(self, job_ids: Sequence[str]) -> Sequence[str]:
        done = await self._run(lambda: steering.expedite(_known(job_ids), self._scope))
        self._announce_ready(["*"])
        return done

    async def discard(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self._run(lambda: steering.discard(_known(job_ids)))

    async def prune(
        self,
        *,
        finished_before: datetime,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        before = self.dialect.write_moment(finished_before)
        return await self._run(lambda: steering.prune(before, states & TERMINAL, limit))

    async def trim(
        self,
        *,
        keep_count: int | None = None,
        keep_bytes: int | None = None,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        limits = Limits(states & TERMINAL, keep_count, keep_bytes)
        return await self._trimming.trim(limits, limit)

    async def purge(self, queue: str) -> int:
        removed = 0
        while page := await self._run(lambda: steering.purge(queue, self._scope)):
            removed += page
        return removed

    async def queues(self) -> Sequence[QueueStatus]:
        named = await self._run(lambda: _rows(Call("queue_names")), write=False)
        found = {
            name: QueueStatus(name=name, paused=bool(paused), reason=reason)
            for name, paused, reason in named
        }
        for (name, state), number in (await self.counts()).items():
            status = found.get(name) or QueueStatus(name=name, paused=False)
            found[name] = replace(status, counts={**status.counts, state: number})
        return [found[name] for name in sorted(found)]

    async def pause(self, queue: str, *, reason: str = "") -> None:
        await self._run(lambda: _rows(Call("pause", {"queue": queue, "reason": mended(reason)})))

    async def resume(self, queue: str) -> None:
        await self._run(lambda: _rows(Call("resume", {"queue": queue})))
        self._announce_ready([queue])

    async def announce(self, job_types: Sequence[JobTypeRecord]) -> None:
        batch = [
            {
                "name": known.name,
                "queue": known.queue,
                "max_attempts": known.max_attempts,
                "max_crashes": known.max_crashes,
                "priority": known.priority,
                "schema": json.dumps(dict(known.payload_schema)),
            }
            for known in job_types
        ]
        if batch:
            await self._run(lambda: _rows(Many("announce", batch)))

    async def job_types(self) -> Sequence[JobTypeRecord]:
        rows = await self._run(lambda: _rows(Call("job_types")), write=False)
        return [
            JobTypeRecord(
                name=name,
                queue=queue,
                max_attempts=max_attempts,
                max_crashes=max_crashes,
                priority=priority,
                payload_schema=json.loads(schema),
            )
            for name, queue, max_attempts, max_crashes, priority, schema in rows
        ]

    async def workers(self) -> Sequence[WorkerRecord]:
        rows = await self._run(lambda: _rows(Call("workers")), write=False)
        moment = self.dialect.read_moment
        return [
            WorkerRecord(
                name=name,
                host=host,
                pid=pid,
                started_at=moment(started),  # type: ignore[arg-type]  # the column is NOT NULL
                seen_at=moment(seen),  # type: ignore[arg-type]
                running=running,
                alive=bool(recent) and not provably_dead(space, pid, birth),
            )
            for _, name, host, space, pid, birth, started, seen, running, recent in rows
            if not name.startswith(RELAY)
        ]

    async def watch(self, *, lasting: timedelta) -> None:
        lasting_ms = round(lasting.total_seconds() * 1000)
        await self._run(lambda: _rows(Call("watch", {"lasting_ms": lasting_ms})))
        self._watched = True

    async def events(self, *, after: int) -> tuple[Sequence[JobEvent], int]:
        return await self._run(lambda: inspection.read_log(after, self._scope), write=False)


def _known(job_ids: Sequence[str]) -> list[str]:
    return [known for job_id in job_ids if (known := parse_id(job_id))]


def _rows(statement: Call | Many) -> Program[Sequence[tuple[Any, ...]]]:
    return (yield statement)


def _record_progress(reports: Sequence[tuple[Delivery, Progress]]) -> Program[None]:
    latest = {
        (delivery.job_id, delivery.attempt, delivery.receipt.claim): {
            "id": delivery.job_id,
            "attempt": delivery.attempt,
            "claim": delivery.receipt.claim,
            "note": progress_text(progress),
        }
        for delivery, progress in reports
    }
    rows = yield Many("report_progress", list(latest.values()))
    heard = {(job_id, attempt) for job_id, attempt in rows}
    kept = [
        {
            "id": d.job_id,
            "percent": p.percent,
            "stage": mended(p.stage),
            "message": mended(p.message),
        }
        for d, p in reports
        if (d.job_id, d.attempt) in heard
    ]
    if kept:
        yield Many("keep_progress", kept)
