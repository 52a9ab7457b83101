"""Changes of locked jobs: checked against the transition table, written, told to the history."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobbus.errors import BackendError
from jobbus.job import DEAD, EventType, JobState, Problem, allowed

from .program import Call, Many, Program, Row, Scope
from .rows import mended, problem_text


@dataclass(frozen=True, slots=True)
class Locked:
    """A job's row, kept from change by others until the transaction ends."""

    id: str
    state: str
    attempt: int
    claim: int | None
    worker: int | None
    started_at: Any
    failures: int
    crashes: int
    snoozes: int
    generation: int
    max_crashes: int
    suspect: bool
    cancel_requested: bool
    has_dependents: bool
    unique_key: str | None
    job_type: str
    queue: str
    early: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One event, and the state that it leads a locked job into."""

    job: Locked
    event: EventType
    to: JobState
    delay: timedelta | None = None
    """From now until the job is due; None leaves its due time alone."""
    failures: int | None = None
    crashes: int | None = None
    snoozes: int | None = None
    generation: int | None = None
    problem: Problem | None = None
    reason: str = ""
    keep_claim: bool = False
    """The claim that settled the job may repeat itself and hear that all is well."""
    silent: bool = False
    """The straight path: the job's own row tells of it."""


def lock(ids: Iterable[str]) -> Program[dict[str, Locked]]:
    """Lock these jobs, in the order that keeps two such transactions from deadlock."""
    rows = yield Call("lock_jobs", {"ids": sorted(set(ids))})
    return {row[0]: Locked(*row) for row in rows}


def lock_free(ids: Iterable[str]) -> Program[dict[str, Locked]]:
    """:func:`lock`, without those that another transaction has locked."""
    rows = yield Call("lock_free_jobs", {"ids": sorted(set(ids))})
    return {row[0]: Locked(*row) for row in rows}


def apply(changes: Sequence[Change], scope: Scope) -> Program[list[str]]:
    """Write the changes; return the ids of those that ended and have others waiting for them."""
    if not changes:
        return []
    for change in changes:
        if not allowed(JobState(change.job.state), change.event, change.to):
            raise BackendError(
                f"{change.event} cannot lead job {change.job.id} from {change.job.state} "
                f"to {change.to}"
            )
    yield Many("move", [_moved(change) for change in changes])
    told = [_told(change) for change in changes if not change.silent]
    if told:
        yield Many("tell", told)
    if scope.watched:
        yield log_entries(
            [
                entry(
                    change.job.id,
                    change.event,
                    change.to,
                    change.job.state,
                    change.job.attempt,
                    change.reason,
                    change.job.job_type,
                    change.job.queue,
                )
                for change in changes
            ]
        )
    return [c.job.id for c in changes if c.to.terminal and c.job.has_dependents]


def fenced(lost: Sequence[Locked], attempts: Mapping[str, int], scope: Scope) -> Program[None]:
    """Tell the history that a worker came too late."""
    rows = [
        {
            "job_id": job.id,
            "event": EventType.FENCED,
            "from_state": job.state,
            "to_state": job.state,
            "attempt": attempts[job.id],
            "worker": None,
            "started_at": None,
            "reason": "settled under a lease that was lost",
            "problem": None,
        }
        for job in lost
    ]
    if rows:
        yield Many("tell", rows)


def entry(
    job_id: str,
    event: EventType,
    to: str,
    origin: str | None,
    attempt: int,
    reason: str,
    job_type: str,
    queue: str,
) -> list[Any]:
    """One event in the live log."""
    return [job_id, event, to, origin, attempt, mended(reason), job_type, queue]


def log_entries(entries: Sequence[list[Any]]) -> Call:
    return Call("log", {"entries": json.dumps(entries)})


def _moved(change: Change) -> dict[str, Any]:
    job, to = change.job, change.to
    return {
        "id": job.id,
        "state": to,
        "ready": to is JobState.QUEUED,
        "timed": to in (JobState.SCHEDULED, JobState.RETRYING),
        "dead": to in DEAD,
        "delay_ms": None if change.delay is None else round(change.delay.total_seconds() * 1000),
        "failures": _given(change.failures, job.failures),
        "crashes": _given(change.crashes, job.crashes),
        "snoozes": _given(change.snoozes, job.snoozes),
        "generation": _given(change.generation, job.generation),
        "problem": problem_text(change.problem),
        "finished": to.terminal,
        "keep_claim": change.keep_claim,
    }


def _told(change: Change) -> dict[str, Any]:
    job = change.job
    return {
        "job_id": job.id,
        "event": change.event,
        "from_state": job.state,
        "to_state": change.to,
        "attempt": job.attempt,
        "worker": job.worker if job.state == JobState.RUNNING else None,
        "started_at": job.started_at if job.state == JobState.RUNNING else None,
        "reason": mended(change.reason),
        "problem": problem_text(change.problem),
    }


def _given(value: int | None, before: int) -> int:
    return before if value is None else value


def column(rows: Sequence[Row]) -> list[Any]:
    """The first column."""
    return [row[0] for row in rows]
