"""What falls due by itself: delays, start deadlines, leases; and the sweep after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from jobbus.job import EventType, JobState

from .dependencies import resolve
from .moving import Change, apply, column, lock, lock_free
from .program import Call, Program, Scope
from .settling import crashed

_PAGE = 1000
_CLAIMS_PAGE = 50
"""Leases that the statement ``lapsed`` takes up at a time."""


@dataclass(frozen=True, slots=True)
class Due:
    """What :func:`look` saw."""

    jobs: bool
    deadlines: bool
    leases: bool
    next_ms: float | None
    """Until the next delayed job is due; None when there is none."""
    watched: bool


def look() -> Program[Due]:
    """See what fell due, without changing anything."""
    rows = yield Call("look")
    jobs, deadlines, leases, next_ms, watched = rows[0]
    return Due(bool(jobs), bool(deadlines), bool(leases), next_ms, bool(watched))


def promote() -> Program[set[str]]:
    """Make due jobs ready; return their queues."""
    queues: set[str] = set()
    while True:
        rows = yield Call("promote")
        queues.update(column(rows))
        if len(rows) < _PAGE:
            return queues


def expire(scope: Scope) -> Program[int]:
    """End jobs whose start deadline has passed; return how many."""
    locked = yield from lock(column((yield Call("overdue"))))
    changes = [
        Change(
            job=job,
            event=EventType.EXPIRED,
            to=JobState.EXPIRED,
            reason="its start deadline passed",
        )
        for job in locked.values()
        if job.state != JobState.RUNNING and not JobState(job.state).terminal
    ]
    yield from resolve((yield from apply(changes, scope)), scope)
    return len(changes)


def take_back(
    *, expired_for: timedelta, dead_workers: Sequence[int], scope: Scope
) -> Program[tuple[int, set[str], bool]]:
    """Take jobs from leases that ran out and from workers known to be dead.

    What was handed to a broker and never started may be handed over again. Returns how many were
    taken from workers, the queues with something ready, and whether there may be more.
    """
    rows = yield Call(
        "lapsed",
        {"expired_ms": round(expired_for.total_seconds() * 1000), "dead": list(dead_workers)},
    )
    claims = {claim: frozenset(json.loads(ids)) for claim, ids in rows}
    held = {(job_id, claim) for claim, ids in claims.items() for job_id in ids}
    if not held:
        return 0, set(), False
    # A worker that is frozen, or cut off, with its job's row locked must not hold up everybody.
    locked = yield from lock_free(job_id for job_id, _ in held)
    missing = sorted({job_id for job_id, _ in held} - locked.keys())
    busy = set(column((yield Call("known", {"ids": missing})))) if missing else set()
    closed = [claim for claim, ids in claims.items() if not ids & busy]
    yield Call("close_claims", {"closed": closed})
    changes = []
    for job in locked.values():
        if job.state != JobState.RUNNING or (job.id, job.claim) not in held:
            continue
        if job.cancel_requested:
            changes.append(
                Change(
                    job=job,
                    event=EventType.CANCELLED,
                    to=JobState.CANCELLED,
                    reason="asked to stop; its worker died",
                )
            )
        else:
            reason = "its worker died or stopped renewing the lease"
            changes.append(crashed(job, reason, delay=timedelta(0), proven=False))
    yield from resolve((yield from apply(changes, scope)), scope)
    queues = {c.job.queue for c in changes if c.to is JobState.QUEUED}
    unstarted = {(j.id, j.claim) for j in locked.values() if j.state == JobState.QUEUED} & held
    if unstarted:
        queues |= yield from put_back(unstarted)
    return len(changes), queues, len(claims) == _CLAIMS_PAGE and bool(closed)


def put_back(handed: Iterable[tuple[str, int | None]]) -> Program[set[str]]:
    """Let these jobs, each under its claim, be handed over again; return their queues."""
    pairs = [{"id": job_id, "claim": claim} for job_id, claim in sorted(handed, key=str)]
    return set(column((yield Call("put_back", {"handed": pairs}))))


def sweep(scope: Scope) -> Program[None]:
    """Tell dependents what a process that died in between did not; trim the live log."""
    yield from resolve(column((yield Call("unnoticed"))), scope)
    yield Call("trim_log")
    yield Call("forget_workers")
