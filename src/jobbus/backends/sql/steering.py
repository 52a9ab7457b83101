"""What people do to jobs: cancel, redrive, expedite, discard, purge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from jobbus.job import TERMINAL, EventType, JobState
from jobbus.store import CancelOutcome

from .dependencies import resolve
from .moving import Change, Locked, apply, column, lock
from .program import Call, Many, Program, Scope
from .rows import mended

REDRIVABLE = TERMINAL - {JobState.COMPLETED}
_EXPEDITABLE = (JobState.SCHEDULED, JobState.RETRYING)


def cancel(
    job_ids: Sequence[str], *, reason: str, scope: Scope
) -> Program[dict[str, CancelOutcome]]:
    """Cancel what waits; ask what runs to stop."""
    locked = yield from lock(job_ids)
    waiting = [j for j in locked.values() if not _ended(j) and j.state != JobState.RUNNING]
    running = [j for j in locked.values() if j.state == JobState.RUNNING]
    changes = [
        Change(job=job, event=EventType.CANCELLED, to=JobState.CANCELLED, reason=reason)
        for job in waiting
    ]
    ended = yield from apply(changes, scope)
    asked = [j for j in running if not j.cancel_requested]
    if asked:
        yield Call("request_cancel", {"ids": [j.id for j in asked]})
        yield from _tell_request(asked, reason)
    yield from resolve(ended, scope)
    return (
        {job_id: CancelOutcome.NOT_FOUND for job_id in job_ids}
        | {job.id: CancelOutcome.FINISHED for job in locked.values()}
        | {job.id: CancelOutcome.CANCELLED for job in waiting}
        | {job.id: CancelOutcome.REQUESTED for job in running}
    )


def _tell_request(asked: Iterable[Locked], reason: str) -> Program[None]:
    yield Many(
        "tell",
        [
            {
                "job_id": job.id,
                "event": EventType.CANCEL_REQUESTED,
                "from_state": job.state,
                "to_state": job.state,
                "attempt": job.attempt,
                "worker": job.worker,
                "started_at": job.started_at,
                "reason": mended(reason),
                "problem": None,
            }
            for job in asked
        ],
    )


def redrive(job_ids: Sequence[str], scope: Scope) -> Program[list[str]]:
    """A new generation of ended jobs that did not complete."""
    locked = yield from lock(job_ids)
    wanted = [j for j in locked.values() if j.state in REDRIVABLE]
    locks = {f"{j.job_type}/{j.unique_key}": j for j in wanted if j.unique_key is not None}
    held = set(column((yield Call("holders", {"locks": list(locks)})))) if locks else set()
    # Of several with one key only one can come back.
    free = {id(j) for lock, j in locks.items() if lock not in held}
    changes = [
        Change(
            job=job,
            event=EventType.REDRIVEN,
            to=JobState.QUEUED,
            delay=timedelta(0),
            failures=0,
            crashes=0,
            generation=job.generation + 1,
            reason=f"generation {job.generation + 1}",
        )
        for job in wanted
        if job.unique_key is None or id(job) in free
    ]
    yield from apply(changes, scope)
    return [change.job.id for change in changes]


def expedite(job_ids: Sequence[str], scope: Scope) -> Program[list[str]]:
    """Make delayed jobs due now."""
    locked = yield from lock(job_ids)
    changes = [
        Change(
            job=job,
            event=EventType.RELEASED_TO_QUEUE,
            to=JobState.QUEUED,
            delay=timedelta(0),
            reason="expedited",
        )
        for job in locked.values()
        if job.state in _EXPEDITABLE
    ]
    yield from apply(changes, scope)
    return [change.job.id for change in changes]


def discard(job_ids: Sequence[str]) -> Program[list[str]]:
    """Delete ended jobs with their traces."""
    locked = yield from lock(job_ids)
    return (yield from delete([j.id for j in locked.values() if _ended(j)]))


def prune(before: object, states: Iterable[JobState], limit: int) -> Program[int]:
    """Delete some jobs that ended in these states before a moment."""
    asked = {"before": before, "states": sorted(states), "limit": limit}
    ids = column((yield Call("prunable", asked)))
    return len((yield from delete(ids)))


def purge(queue: str, scope: Scope) -> Program[int]:
    """Delete a page of jobs that have not started; those that others wait for are cancelled."""
    ids = column((yield Call("unstarted", {"queue": queue})))
    locked = yield from lock(ids)
    waited_for = [
        Change(job=j, event=EventType.CANCELLED, to=JobState.CANCELLED, reason="queue purged")
        for j in locked.values()
        if j.has_dependents
    ]
    yield from resolve((yield from apply(waited_for, scope)), scope)
    deleted = yield from delete([j.id for j in locked.values() if not j.has_dependents])
    return len(waited_for) + len(deleted)


def delete(ids: Sequence[str]) -> Program[list[str]]:
    """Delete jobs with all their traces."""
    if not ids:
        return []
    for trace in ("delete_history", "delete_progress", "delete_edges", "delete_groups"):
        yield Call(trace, {"ids": list(ids)})
    return column((yield Call("delete", {"ids": list(ids)})))


def _ended(job: Locked) -> bool:
    return JobState(job.state).terminal
