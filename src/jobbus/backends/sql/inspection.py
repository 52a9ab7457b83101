"""What people ask: one job, many jobs, a job's history."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from jobbus.ids import parse_id
from jobbus.job import EventType, Job, JobEvent, JobState, Progress
from jobbus.store import Page

from .program import Call, Program, Row, Rows, Scope
from .rows import job_from, problem_from, progress_word

_PENDING = (JobState.SCHEDULED, JobState.BLOCKED, JobState.RETRYING, JobState.CREATED)


def get(job_id: str, scope: Scope) -> Program[Job | None]:
    rows = yield Call("get", {"id": job_id})
    return job_from(rows[0], scope.dialect) if rows else None


def find(sql: str, parameters: dict[str, Any], limit: int, scope: Scope) -> Program[Page]:
    """Run a composed query that asked for one job more than the page holds."""
    rows: Rows = yield Call("find", {**parameters}, sql)
    jobs = [job_from(row, scope.dialect) for row in rows[:limit]]
    return Page(jobs, encode_cursor(jobs[-1].id) if len(rows) > limit else None)


def encode_cursor(job_id: str) -> str:
    return base64.urlsafe_b64encode(f"1:{job_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The id of the last job of the page before. Raises ValueError for anything not ours."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        job_id = parse_id(text.removeprefix("1:")) if text.startswith("1:") else None
    except ValueError:
        job_id = None
    if job_id is None:
        raise ValueError(f"{cursor[:80]!r} is no cursor of a page of jobs")
    return job_id


def history(job_id: str, scope: Scope) -> Program[list[JobEvent]]:
    """The whole sequence: the straight path from the job's row, the rest from the history."""
    rows = yield Call("get", {"id": job_id})
    if not rows:
        return []
    told = yield Call("history", {"id": job_id})
    return story(job_from(rows[0], scope.dialect), JobState(rows[0][-1]), told, scope)


def story(job: Job, initial: JobState, told: Sequence[Row], scope: Scope) -> list[JobEvent]:
    """A job's events: those told by the history, and between them those that its record tells."""
    return _Story(job, initial, scope).tell(told)


def progress(job_id: str, scope: Scope) -> Program[list[Progress]]:
    rows = yield Call("progress", {"id": job_id})
    return [progress_word(row, scope.dialect) for row in rows]


def read_log(after: int, scope: Scope) -> Program[tuple[list[JobEvent], int]]:
    """Events behind a position of the live log, and the position reached."""
    # A position is the number of the next entry, so that 0 can mean "from now".
    if after <= 0:
        rows = yield Call("log_end")
        return [], int(rows[0][0]) + 1
    rows = yield Call("read_log", {"after": after - 1})
    events = [
        JobEvent(
            job_id=job_id,
            type=EventType(event),
            at=scope.dialect.read_moment(at),  # type: ignore[arg-type]  # the column is NOT NULL
            to_state=JobState(to),
            from_state=JobState(origin) if origin else None,
            attempt=attempt,
            reason=reason,
            job_type=job_type,
            queue=queue,
        )
        for _, at, entries in rows
        for job_id, event, to, origin, attempt, reason, job_type, queue in json.loads(entries)
    ]
    return events, rows[-1][0] + 1 if rows else after


class _Story:
    """Puts a job's events in order, adding what only the job's row tells."""

    def __init__(self, job: Job, initial: JobState, scope: Scope) -> None:
        self._job = job
        self._scope = scope
        self._state = initial
        self._events = [self._event(EventType.CREATED, job.created_at, initial, None)]

    def tell(self, rows: Sequence[Row]) -> list[JobEvent]:
        for index, row in enumerate(rows):
            event, at, origin, to, attempt, worker, started_at, reason, problem = row
            when = self._scope.dialect.read_moment(at)
            if event == EventType.FENCED:
                self._catch_up(origin, when, rows[index + 1 :])
                self._add(EventType.FENCED, when, self._state, attempt=attempt, reason=reason)
                continue
            if event == EventType.MOVED:
                self._catch_up(origin, when, rows[index + 1 :])
            began = self._scope.dialect.read_moment(started_at)
            if origin == JobState.RUNNING:
                self._start(began or when, attempt, worker)
            elif origin == JobState.QUEUED:
                self._release(when)
            self._add(
                EventType(event),
                when,
                JobState(to),
                attempt=attempt,
                worker=worker,
                reason=reason,
                problem=problem_from(problem),
            )
        self._finish()
        return self._events

    def _catch_up(self, state: str, at: Any, later: Sequence[Row]) -> None:
        """Tell what had silently happened before a late worker was refused, or the job moved."""
        if state == JobState.COMPLETED:
            self._finish()
        elif state == JobState.QUEUED:
            self._release(at)
        elif state == JobState.SCHEDULED and self._state is JobState.BLOCKED:
            self._add(EventType.RELEASED_TO_QUEUE, at, JobState.SCHEDULED)
        elif state == JobState.RUNNING:
            for event, ended, origin, _to, attempt, worker, started_at, *_ in later:
                if origin == JobState.RUNNING and event != EventType.FENCED:
                    moment = self._scope.dialect.read_moment
                    self._start(moment(started_at) or moment(ended), attempt, worker)
                    return
            self._start(self._job.started_at, self._job.attempt, self._job.worker)

    def _finish(self) -> None:
        job = self._job
        if self._state.terminal or self._state is job.state:
            return
        if job.state in (JobState.RUNNING, JobState.COMPLETED):
            self._start(job.started_at, job.attempt, job.worker)
        elif job.state is JobState.SCHEDULED:
            self._add(EventType.RELEASED_TO_QUEUE, job.run_at, JobState.SCHEDULED)
        else:
            self._release(job.run_at)
        if job.state is JobState.COMPLETED:
            # Postgres reads the clock before it waits for the row, which a late worker's refusal
            # may be holding meanwhile.
            last = self._events[-1].at
            self._add(
                EventType.COMPLETED, max(job.finished_at or last, last), JobState.COMPLETED,
                attempt=job.attempt, worker=job.worker,
            )  # fmt: skip

    def _start(self, at: Any, attempt: int, worker: str | None) -> None:
        if self._state is JobState.RUNNING:
            return
        self._release(at)
        self._add(EventType.STARTED, at, JobState.RUNNING, attempt=attempt, worker=worker)

    def _release(self, at: Any) -> None:
        if self._state in _PENDING:
            # It was due at that moment; found to be so not before what happened meanwhile.
            at = max(at or self._events[-1].at, self._events[-1].at)
            self._add(EventType.RELEASED_TO_QUEUE, at, JobState.QUEUED)

    def _add(self, event: EventType, at: Any, to: JobState, **facts: Any) -> None:
        at = at or self._events[-1].at
        self._events.append(self._event(event, at, to, self._state, **facts))
        self._state = to

    def _event(
        self, event: EventType, at: Any, to: JobState, origin: JobState | None, **facts: Any
    ) -> JobEvent:
        return JobEvent(
            job_id=self._job.id,
            type=event,
            at=at,
            to_state=to,
            from_state=origin,
            job_type=self._job.job_type,
            queue=self._job.queue,
            **facts,
        )
