"""Holds what happened against what was promised. Sound: what it reports did go wrong.

Invariants:

* C1 no accepted job is lost, and all have ended; C2 none is there that nobody enqueued;
* C3 a completed job was run;
* C4 an attempt is handed out once, later attempts later, and never while an earlier lease is valid;
* C5 an end is final; what was accepted came from the highest attempt; histories follow the rules;
* C6 effects: once where they commit with the job, else once and once more for each interruption;
* C9 no crash and no failure is counted that did not happen, and no crash goes uncounted;
* C7, C12, C13, and that nobody works under a lease that ran out:
  :mod:`tests.crash.order_checks`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from jobbus.job import EventType, JobEvent, JobState
from jobbus.testing import check_history
from tests.crash.evidence import (
    EVERYBODY,
    FAULTS,
    TOLERANCE,
    TRANSACTIONAL,
    Evidence,
    Key,
    Violation,
    shortened,
)
from tests.crash.order_checks import ORDER_CHECKS

__all__ = ["CHECKS", "EVERYBODY", "TRANSACTIONAL", "Evidence", "Violation", "violations"]


def violations(evidence: Evidence) -> list[Violation]:
    """Everything that went wrong."""
    return [one for check in CHECKS for one in check(evidence)]


def lost_jobs(evidence: Evidence) -> Iterable[Violation]:
    for job_id in {record.job for record in evidence.of("enqueued")}:
        job = evidence.jobs.get(job_id)
        if job is None:
            yield Violation("C1", job_id, "it was accepted and is not there")
    for job in evidence.jobs.values():
        if not job.state.terminal:
            yield Violation("C1", job.id, f"it has not ended: it is {job.state}")


def unexpected_jobs(evidence: Evidence) -> Iterable[Violation]:
    asked_for = {record.job for record in evidence.of("enqueuing")}
    for job_id in evidence.jobs.keys() - asked_for:
        yield Violation("C2", job_id, "nobody enqueued it")


def completed_unrun(evidence: Evidence) -> Iterable[Violation]:
    started = {record.job for record in evidence.of("started")}
    for job in evidence.jobs.values():
        if job.state is JobState.COMPLETED and job.id not in started:
            yield Violation("C3", job.id, "it is completed, and no handler ran")


def handed_out_wrongly(evidence: Evidence) -> Iterable[Violation]:
    for job, claims in evidence.claims.items():
        for before, claim in pairwise(claims):
            if claim.attempt == before.attempt:
                text = f"attempt {claim.attempt} was handed to {before.process} and {claim.process}"
                yield Violation("C4", job, text)
            # Answers may overtake each other; a claim asked for after another's answer may not.
            elif claim.attempt < before.attempt and claim.detail["before"] > before.monotonic:
                text = f"attempt {claim.attempt} was handed out after attempt {before.attempt}"
                yield Violation("C4", job, text)


def handed_to_nobody(evidence: Evidence) -> Iterable[Violation]:
    if any(record.event in FAULTS for record in evidence.records):
        return  # the answer may have been for a process that died, or on a line that was cut
    for job_id, number in evidence.unheard.items():
        if number:
            yield Violation("C4", job_id, f"{number} attempts were handed out and reached nobody")


def overlapping_leases(evidence: Evidence) -> Iterable[Violation]:
    ends = _lease_ends(evidence)
    for job, claims in evidence.claims.items():
        ordered = sorted(claims, key=lambda record: record.attempt)
        for index, claim in enumerate(ordered):
            for later in ordered[index + 1 :]:
                overlap = ends[job, claim.attempt] - later.monotonic
                if overlap > TOLERANCE:
                    text = (
                        f"attempt {later.attempt} was handed to {later.process} {overlap:.3f} s "
                        f"before the lease of attempt {claim.attempt} ({claim.process}) ended"
                    )
                    yield Violation("C4", job, text)


def _lease_ends(evidence: Evidence) -> Mapping[Key, float]:
    """When each lease ended at the earliest: by time, by its holder's word or by its death."""
    ends: dict[Key, float] = {}
    holders: dict[str, list[Key]] = defaultdict(list)
    for record in evidence.records:
        if record.event not in ("claimed", "renewed"):
            continue
        key = (record.job, record.attempt)
        ends[key] = max(ends.get(key, 0.0), shortened(evidence, record))
        if record.event == "claimed":
            holders[record.process].append(key)
    for record in evidence.records:
        key = (record.job, record.attempt)
        if record.event == "settling" and key in ends:
            # From here on the queue may have taken the outcome, whatever its holder came to hear.
            ends[key] = min(ends[key], record.monotonic)
        elif record.event in ("dying", "killed", "left"):
            # Also who left in good order is gone: others on the machine need not wait.
            for held in holders[str(record.detail.get("process", record.process))]:
                ends[held] = min(ends[held], record.monotonic)
    return ends


def changed_ends(evidence: Evidence) -> Iterable[Violation]:
    for before in evidence.earlier:
        job = evidence.jobs.get(before.id)
        if not before.state.terminal or job is None or before == job:
            continue
        text = f"it had ended {before.state} in attempt {before.attempt}, and now is {job.state}"
        yield Violation("C5", before.id, f"{text} in attempt {job.attempt}")


def unfenced_outcomes(evidence: Evidence) -> Iterable[Violation]:
    asked = {
        (record.process, record.job, record.attempt, record.detail["verb"]): record.monotonic
        for record in evidence.of("settling")
    }
    for job_id, outcomes in evidence.accepted.items():
        for record in outcomes:
            call = (record.process, job_id, record.attempt, record.detail["verb"])
            for claim in evidence.claims.get(job_id, ()):
                if claim.attempt > record.attempt and claim.monotonic < asked[call]:
                    text = f"attempt {record.attempt} could {record.detail['verb']} it after"
                    yield Violation("C5", job_id, f"{text} attempt {claim.attempt} was handed out")


def completed_by_another(evidence: Evidence) -> Iterable[Violation]:
    for job_id, outcomes in evidence.accepted.items():
        completions = {r.attempt for r in outcomes if str(r.detail["verb"]).startswith("complete")}
        job = evidence.jobs.get(job_id)
        if len(completions) > 1:
            text = f"attempts {sorted(completions)} could all complete it"
            yield Violation("C5", job_id, text)
        elif completions and job is not None and completions != {job.attempt}:
            text = f"attempt {completions.pop()} completed it, and the ledger says {job.attempt}"
            yield Violation("C5", job_id, text)
        ended = min((r.monotonic for r in outcomes if r.attempt in completions), default=None)
        for claim in evidence.claims.get(job_id, ()):
            if ended is not None and claim.detail["before"] > ended:
                yield Violation("C5", job_id, f"attempt {claim.attempt} began after it had ended")


def impossible_histories(evidence: Evidence) -> Iterable[Violation]:
    set_back = any(jump.detail["by"] < 0 for jump in evidence.of("jumped"))
    for job_id, told in evidence.histories.items():
        events = _in_order(told) if set_back else told
        try:
            check_history(events, evidence.jobs.get(job_id))
        except AssertionError as error:
            yield Violation("C5", job_id, str(error))


def _in_order(events: Sequence[JobEvent]) -> Sequence[JobEvent]:
    """The same events, as a clock tells them that was not set back."""
    told: list[JobEvent] = []
    for event in events:
        told.append(replace(event, at=max(event.at, told[-1].at)) if told else event)
    return told


def too_many_effects(evidence: Evidence) -> Iterable[Violation]:
    done: dict[str, list[int]] = defaultdict(list)
    for record in evidence.of("effect"):
        done[record.job].append(record.attempt)
    for job_id, attempts in done.items():
        if len(set(attempts)) < len(attempts):
            yield Violation("C6", job_id, f"one attempt had its effect twice: {sorted(attempts)}")
        allowed = 1 + evidence.interruptions.get(job_id, 0)
        if len(attempts) > allowed:
            text = f"{len(attempts)} effects, and {allowed - 1} interruptions"
            yield Violation("C6", job_id, text)


def not_exactly_once(evidence: Evidence) -> Iterable[Violation]:
    if evidence.effects is None:
        return
    written: dict[str, list[int]] = defaultdict(list)
    for job_id, attempt in evidence.effects:
        written[job_id].append(attempt)
    for job in evidence.jobs.values():
        if job.job_type != TRANSACTIONAL:
            continue
        attempts = written.pop(job.id, [])
        expected = [job.attempt] if job.state is JobState.COMPLETED else []
        if attempts != expected:
            text = f"it is {job.state} in attempt {job.attempt}; attempts {attempts} were written"
            yield Violation("C6", job.id, text)
    for job_id, attempts in written.items():
        yield Violation("C6", job_id, f"attempts {attempts} were written, and no such job is known")


def wrong_accounts(evidence: Evidence) -> Iterable[Violation]:
    failing: dict[str, int] = defaultdict(int)
    for record in evidence.of("failing"):
        failing[record.job] += 1
    for job in evidence.jobs.values():
        happened = evidence.deaths.get(job.id, 0) + evidence.unheard[job.id]
        if job.crashes > happened:
            text = f"{job.crashes} crashes are counted, {happened} interruptions happened"
            yield Violation("C9", job.id, text)
        if job.failures > failing[job.id]:
            text = f"{job.failures} failures are counted, {failing[job.id]} happened"
            yield Violation("C9", job.id, text)
        told = [event.type for event in evidence.histories.get(job.id, ())]
        if EventType.REDRIVEN not in told and EventType.CRASHED in told and not job.crashes:
            yield Violation("C9", job.id, "it crashed, and no crash is counted")
        if told and job.crashes and not {EventType.CRASHED, EventType.FAILED} & set(told):
            yield Violation("C5", job.id, "crashes are counted of which its history says nothing")


CHECKS: Final[Sequence[Callable[[Evidence], Iterable[Violation]]]] = (
    lost_jobs,
    unexpected_jobs,
    completed_unrun,
    handed_out_wrongly,
    handed_to_nobody,
    overlapping_leases,
    changed_ends,
    unfenced_outcomes,
    completed_by_another,
    impossible_histories,
    too_many_effects,
    not_exactly_once,
    wrong_accounts,
    *ORDER_CHECKS,
)
