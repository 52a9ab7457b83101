"""Who may run when, and until when: order, pauses, cancellations, leases that ran out, reports.

* C4 nobody starts, or has an effect, under a lease that ran out, unless it had been frozen;
* C7 a job of a group, or one with dependencies, starts only when what it waits for has ended;
* C12 what was cancelled before it started never runs, and a paused queue hands out nothing;
* C13 what a worker reports of itself is what the queue took from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from jobbus.job import JobState
from tests.crash.evidence import Evidence, Key, Violation
from tests.crash.history import Record

SCHEDULING: Final = 1.0
"""Seconds that a busy machine may take until a process does what it is due to do."""
OBSTINATE: Final = frozenset({"blocking", "obstinate"})
"""Job types that nothing can stop."""
FREEZING: Final = ("stopped", "stopping", "resumed")


def outlived_leases(evidence: Evidence) -> Iterable[Violation]:
    kept: dict[Key, list[Record]] = defaultdict(list)
    for record in (*evidence.of("claimed"), *evidence.of("renewed")):
        kept[record.job, record.attempt].append(record)
    frozen = _frozen(evidence)
    for deed in (*evidence.of("started"), *evidence.of("effect")):
        job = evidence.jobs.get(deed.job)
        known = [
            r
            for r in kept[deed.job, deed.attempt]
            if r.monotonic <= deed.monotonic and r.process == deed.process
        ]
        if not known or job is None or job.job_type in OBSTINATE:
            continue
        last = max(known, key=lambda r: float(r.detail["before"]))
        late = deed.monotonic - last.detail["before"] - last.detail["lease"]
        if late <= SCHEDULING:
            continue
        if any(last.detail["before"] <= moment for moment in frozen[deed.process]):
            continue
        what = "started" if deed.event == "started" else "had its effect"
        text = f"attempt {deed.attempt} {what} {late:.3f} s after its lease had run out"
        yield Violation("C4", deed.job, text)


def _frozen(evidence: Evidence) -> Mapping[str, Sequence[float]]:
    """When each process was frozen, or thawed."""
    found: dict[str, list[float]] = defaultdict(list)
    for event in FREEZING:
        for record in evidence.of(event):
            found[str(record.detail.get("process", record.process))].append(record.monotonic)
    return found


def out_of_order(evidence: Evidence) -> Iterable[Violation]:
    for earlier, later in waits(evidence):
        ended = _end_asked_for(evidence, earlier)
        if ended is None:
            continue
        for claim in evidence.claims.get(later, ()):
            if claim.monotonic < ended:
                text = f"attempt {claim.attempt} was handed out before job {earlier} had ended"
                yield Violation("C7", later, text)


def waits(evidence: Evidence) -> Iterable[tuple[str, str]]:
    """Jobs, and those that may start only when they have ended."""
    done = {record.job: record.monotonic for record in evidence.of("enqueued")}
    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in evidence.of("enqueuing"):
        for earlier in record.detail.get("after", ()):
            yield earlier, record.job
        if "group" in record.detail:
            groups[record.detail["group"]].setdefault(record.job, record)
    for members in groups.values():
        for before, after in pairwise(members.values()):
            # Of two producers at once nobody can say who was first.
            known = done.get(before.job, float("inf")) < after.monotonic
            if known or before.process == after.process:
                yield before.job, after.job


def _end_asked_for(evidence: Evidence, job_id: str) -> float | None:
    """Before this moment the job had not ended; None when it did not end by its worker's word."""
    job = evidence.jobs.get(job_id)
    if job is None or job.state is JobState.CANCELLED:
        return None
    asked = [r.monotonic for r in evidence.settling.get(job_id, ()) if r.attempt == job.attempt]
    return min(asked, default=None)


def run_though_cancelled(evidence: Evidence) -> Iterable[Violation]:
    for record in evidence.of("cancelled"):
        job = evidence.jobs.get(record.job)
        if job is not None and job.state is not JobState.CANCELLED:
            yield Violation("C12", record.job, f"it had been cancelled, and is {job.state}")
        for claim in evidence.claims.get(record.job, ()):
            if claim.detail["before"] > record.monotonic:
                text = f"attempt {claim.attempt} was handed out after it had been cancelled"
                yield Violation("C12", record.job, text)


def run_though_paused(evidence: Evidence) -> Iterable[Violation]:
    resumed = [record.monotonic for record in evidence.of("resuming")]
    for pause in evidence.of("paused"):
        until = min((r for r in resumed if r > pause.monotonic), default=float("inf"))
        for claim in evidence.of("claimed"):
            job = evidence.jobs.get(claim.job)
            if job is None or job.queue != pause.detail["queue"]:
                continue
            if claim.detail["before"] > pause.monotonic and claim.monotonic < until:
                yield Violation("C12", claim.job, "it was handed out of a paused queue")


def wrong_reports(evidence: Evidence) -> Iterable[Violation]:
    """A worker's reports are what its counters and metrics are made of."""
    reported = Counter((r.job, r.attempt) for r in evidence.of("reported"))
    for (job, attempt), number in reported.items():
        if number > 1:
            yield Violation("C13", job, f"attempt {attempt} was reported {number} times")
    reporting = {record.process for record in evidence.of("reported")}
    # What never started may have gone back without its worker having seen it.
    started = {(record.job, record.attempt) for record in evidence.of("started")}
    for record in evidence.of("settled"):
        key = (record.job, record.attempt)
        if record.process in reporting and key in started and key not in reported:
            yield Violation("C13", record.job, f"attempt {record.attempt} was not reported")


ORDER_CHECKS: Final[Sequence[Callable[[Evidence], Iterable[Violation]]]] = (
    outlived_leases,
    out_of_order,
    run_though_cancelled,
    run_though_paused,
    wrong_reports,
)
