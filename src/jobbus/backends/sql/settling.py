"""How attempts end that did not simply complete, and how late workers are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from jobbus.job import DEAD, EventType, JobState, Problem
from jobbus.message import Abandonment, Completion, CountsAs, DeadLetter, Delivery

from .dependencies import resolve
from .moving import Change, Locked, apply, fenced, lock
from .program import Call, Program, Scope

Settlement = Completion | Abandonment | DeadLetter


def settle(
    settlements: Sequence[Settlement], *, closed: Sequence[int], scope: Scope
) -> Program[list[Delivery]]:
    """Settle what is still held; return the deliveries that were not."""
    locked = yield from lock(s.delivery.job_id for s in settlements)
    changes, lost = [], []
    for settlement in settlements:
        job = locked.get(settlement.delivery.job_id)
        if job is None or not _under_same_lease(settlement.delivery, job):
            lost.append(settlement.delivery)
        elif job.state == JobState.RUNNING:
            changes.append(_change(settlement, job))
        elif not _repeats(settlement, job):
            lost.append(settlement.delivery)
    ended = yield from apply(changes, scope)
    if closed:
        yield Call("close_claims", {"closed": list(closed)})
    yield from resolve(ended, scope)
    yield from _refuse(lost, locked, scope)
    return lost


def refuse(done: Sequence[Completion], scope: Scope) -> Program[list[Delivery]]:
    """Of completions that changed nothing, return those that were too late.

    The others repeat what had been recorded before: a reply was lost, not a lease.
    """
    locked = yield from lock(c.delivery.job_id for c in done)
    lost = []
    for completion in done:
        job = locked.get(completion.delivery.job_id)
        if (
            job is None
            or not _under_same_lease(completion.delivery, job)
            or not _repeats(completion, job)
        ):
            lost.append(completion.delivery)
    yield from _refuse(lost, locked, scope)
    return lost


def _refuse(lost: Sequence[Delivery], locked: Mapping[str, Locked], scope: Scope) -> Program[None]:
    attempts = {d.job_id: d.attempt for d in lost}
    yield from fenced([locked[id] for id in attempts if id in locked], attempts, scope)


def _under_same_lease(delivery: Delivery, job: Locked) -> bool:
    return job.attempt == delivery.attempt and job.claim == delivery.receipt.claim


def _repeats(settlement: Settlement, job: Locked) -> bool:
    match settlement:
        case Completion(cancelled=True):
            return job.state == JobState.CANCELLED
        case Completion():
            return job.state == JobState.COMPLETED
        case DeadLetter():
            return job.state in DEAD
        case Abandonment(counts_as=CountsAs.CRASH):
            return job.state in (JobState.QUEUED, JobState.RETRYING, JobState.FAILED)
    return job.state in (JobState.QUEUED, JobState.RETRYING)


def _change(settlement: Settlement, job: Locked) -> Change:
    match settlement:
        case Completion():
            return Change(
                job=job,
                event=EventType.CANCELLED if settlement.cancelled else EventType.COMPLETED,
                to=JobState.CANCELLED if settlement.cancelled else JobState.COMPLETED,
                reason=settlement.reason,
                keep_claim=True,
            )
        case DeadLetter():
            return Change(
                job=job,
                event=EventType.TIMED_OUT if settlement.timed_out else EventType.FAILED,
                to=JobState.TIMED_OUT if settlement.timed_out else JobState.FAILED,
                failures=job.failures + 1,
                problem=settlement.problem,
                reason=settlement.problem.message,
                keep_claim=True,
            )
    return _abandoned(settlement, job)


def _abandoned(back: Abandonment, job: Locked) -> Change:
    if job.cancel_requested:
        return Change(
            job=job,
            event=EventType.CANCELLED,
            to=JobState.CANCELLED,
            reason="asked to stop while it ran",
            problem=back.problem,
            keep_claim=True,
        )
    reason = back.problem.message if back.problem else ""
    match back.counts_as:
        case CountsAs.CRASH:
            return crashed(job, reason, delay=back.delay, keep_claim=True, proven=True)
        case CountsAs.RELEASE:
            return Change(
                job=job,
                event=EventType.RELEASED,
                to=JobState.QUEUED,
                delay=timedelta(0),
                reason=reason,
                keep_claim=True,
            )
        case CountsAs.SNOOZE:
            return Change(
                job=job,
                event=EventType.SNOOZED,
                to=JobState.RETRYING,
                delay=back.delay,
                snoozes=job.snoozes + 1,
                problem=back.problem,
                reason=reason,
                keep_claim=True,
            )
    return Change(
        job=job,
        event=EventType.RETRY_SCHEDULED,
        to=JobState.RETRYING,
        delay=back.delay,
        failures=job.failures + 1,
        problem=back.problem,
        reason=reason,
        keep_claim=True,
    )


def crashed(
    job: Locked, reason: str, *, delay: timedelta, proven: bool, keep_claim: bool = False
) -> Change:
    """A process died with this job in its hands.

    Without proof that it was this job's doing, a first crash counts, and makes the job a suspect
    that runs alone; a suspect's further crashes count only when it was running, as its mark says.
    So what merely shared a process with a killer is not punished for it twice.
    """
    crashes = job.crashes + (proven or job.suspect or job.crashes == 0)
    if crashes >= job.max_crashes:
        message = f"the process that ran it died {crashes} times; the last: {reason}"
        return Change(
            job=job,
            event=EventType.FAILED,
            to=JobState.FAILED,
            crashes=crashes,
            problem=Problem(kind="poison_crash", message=message),
            reason=message,
            keep_claim=keep_claim,
        )
    return Change(
        job=job,
        event=EventType.CRASHED,
        to=JobState.RETRYING if delay else JobState.QUEUED,
        delay=delay,
        crashes=crashes,
        reason=reason,
        keep_claim=keep_claim,
    )
