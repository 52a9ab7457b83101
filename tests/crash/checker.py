"""Holds what happened against what was promised. Sound: what it reports did go wrong.

Invariants:

* C1 no accepted job is lost, and all have ended; C2 none is there that nobody enqueued;
* C3 a completed job was run;
* C4 an attempt is handed out once, later attempts later, and never while an earlier lease is valid;
* C5 an end is final; what was accepted came from the highest attempt; histories follow the rules;
* C6 effects: once where they commit with the job, else once and once more for each interruption;
* C9 no crash and no failure is counted that did not happen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final

from jobbus.job import Job, JobEvent, JobState
from jobbus.testing import check_history
from tests.crash.history import Record

TOLERANCE: Final = 0.005
"""Seconds by which the clocks of a database and of this machine may differ."""
EVERYBODY: Final = "*"
"""The process of a fault that meets all of them, such as the database's crash."""
FAULTS: Final = frozenset({"dying", "stopping", "killed", "stopped", "draining", "cut"})
"""Records of what interrupts the work of a process."""

TRANSACTIONAL: Final = "transactional"
"""The job type whose effects commit with its jobs' completion."""

Key = tuple[str, int]
"""A job, and one of its attempts."""


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    job: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.job}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything there is to judge by."""

    records: Sequence[Record]
    jobs: Mapping[str, Job]
    """The ledger in the end."""
    histories: Mapping[str, Sequence[JobEvent]] = field(default_factory=dict)
    """What the ledger says of how it came to that."""
    earlier: Sequence[Job] = ()
    """The ledger at earlier moments."""
    effects: Sequence[Key] | None = None
    """What the jobs of type ``transactional`` wrote in the transactions that completed them."""

    @cached_property
    def claims(self) -> Mapping[str, Sequence[Record]]:
        """Hand-outs by job, in the order in which they were answered."""
        return self._by_job("claimed")

    @cached_property
    def accepted(self) -> Mapping[str, Sequence[Record]]:
        """Outcomes that the queue took, by job."""
        return self._by_job("settled", lambda record: bool(record.detail["accepted"]))

    @cached_property
    def interruptions(self) -> Mapping[str, int]:
        """How often something befell a process that had a job in its hands, by job."""
        found: dict[str, int] = defaultdict(int)
        for fault in self.records:
            if fault.event in FAULTS:
                for job in self._in_hands(fault):
                    found[job] += 1
        return found

    @cached_property
    def unheard(self) -> Mapping[str, int]:
        """Attempts whose hand-out reached nobody, by job."""
        return {
            job.id: len(
                set(range(1, job.attempt + 1)) - {r.attempt for r in self.claims.get(job.id, ())}
            )
            for job in self.jobs.values()
        }

    def of(self, event: str) -> Iterator[Record]:
        return (record for record in self.records if record.event == event)

    def _in_hands(self, fault: Record) -> set[str]:
        if fault.job:
            return {fault.job}
        whose = str(fault.detail.get("process", fault.process))
        held: set[Key] = set()
        for record in self.records:
            key = (record.job, record.attempt)
            if record.event == "claimed" and whose in (EVERYBODY, record.process):
                # It may be the answer that was late, and not the claim.
                if record.detail["before"] <= fault.monotonic:
                    held.add(key)
            elif record.event == "settled" and record.monotonic <= fault.monotonic:
                held.discard(key)
        return {job for job, _ in held}

    def _by_job(
        self, event: str, which: Callable[[Record], bool] = lambda record: True
    ) -> Mapping[str, Sequence[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in sorted(self.of(event), key=lambda record: record.monotonic):
            if which(record):
                found[record.job].append(record)
        return found


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
        ends[key] = max(ends.get(key, 0.0), record.detail["before"] + record.detail["lease"])
        if record.event == "claimed":
            holders[record.process].append(key)
    for record in evidence.records:
        key = (record.job, record.attempt)
        if record.event == "settling" and key in ends:
            # From here on the queue may have taken the outcome, whatever its holder came to hear.
            ends[key] = min(ends[key], record.monotonic)
        elif record.event in ("dying", "killed"):
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
    for job_id, events in evidence.histories.items():
        try:
            check_history(events, evidence.jobs.get(job_id))
        except AssertionError as error:
            yield Violation("C5", job_id, str(error))


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
        happened = evidence.interruptions.get(job.id, 0) + evidence.unheard[job.id]
        if job.crashes > happened:
            text = f"{job.crashes} crashes are counted, {happened} interruptions happened"
            yield Violation("C9", job.id, text)
        if job.failures > failing[job.id]:
            text = f"{job.failures} failures are counted, {failing[job.id]} happened"
            yield Violation("C9", job.id, text)


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
)
