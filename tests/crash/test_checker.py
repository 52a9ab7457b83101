"""The checker is worth something only if it can fail: each forged history must be reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from jobbus.job import EventType, Job, JobEvent, JobState
from tests.crash.checker import EVERYBODY, TRANSACTIONAL, Evidence, violations
from tests.crash.history import Record

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
LEASE: Final = 10.0
CALM, STRUCK = "calm", "struck"
"""A job that went well, and one whose first worker died."""

Alteration = Callable[[list[Record]], None]


def record(
    moment: float, process: str, event: str, job: str = "", /, *, attempt: int = 0, **detail: Any
) -> Record:
    return Record(
        process=process, event=event, job=job, attempt=attempt, monotonic=moment, detail=detail
    )


def run(
    moment: float, process: str, job: str, attempt: int, *, until: str = "settled"
) -> list[Record]:
    """One attempt, as far as it got."""
    claimed = {"before": moment - 0.1, "lease": LEASE}
    outcome = {"verb": "complete", "accepted": True}
    records = [
        record(moment, process, "claimed", job, attempt=attempt, **claimed),
        record(moment + 1, process, "started", job, attempt=attempt),
        record(moment + 2, process, "effect", job, attempt=attempt),
        record(moment + 3, process, "settling", job, attempt=attempt, verb="complete"),
        record(moment + 4, process, "settled", job, attempt=attempt, **outcome),
    ]
    return records[: [r.event for r in records].index(until) + 1]


def what_happened() -> list[Record]:
    return [
        *(record(0, "test", "enqueuing", job) for job in (CALM, STRUCK)),
        *(record(1, "test", "enqueued", job) for job in (CALM, STRUCK)),
        *run(10, "first", CALM, 1),
        *run(20, "first", STRUCK, 1, until="effect"),
        record(23, "first", "dying", label="handler:after_effect"),
        *run(30, "second", STRUCK, 2),
    ]


def job(job_id: str, state: JobState = JobState.COMPLETED, **told: Any) -> Job:
    fields = {"attempt": 1, "failures": 0, "crashes": 0, **told}
    return Job(
        id=job_id, job_type=TRANSACTIONAL, queue="default", state=state, priority=5, payload=b"{}",
        snoozes=0, max_attempts=3, generation=1, created_at=START, run_at=START, **fields,
    )  # fmt: skip


def ledger() -> dict[str, Job]:
    return {CALM: job(CALM), STRUCK: job(STRUCK, attempt=2, crashes=1)}


def event(seconds: int, kind: EventType, origin: JobState | None, to: JobState,
          attempt: int) -> JobEvent:  # fmt: skip
    at = START + timedelta(seconds=seconds)
    return JobEvent(job_id=CALM, type=kind, at=at, from_state=origin, to_state=to, attempt=attempt)


def told() -> list[JobEvent]:
    """The ledger's own history of the calm job."""
    return [
        event(0, EventType.CREATED, None, JobState.QUEUED, 0),
        event(1, EventType.STARTED, JobState.QUEUED, JobState.RUNNING, 1),
        event(2, EventType.COMPLETED, JobState.RUNNING, JobState.COMPLETED, 1),
    ]


def judged(
    records: Sequence[Record] | None = None, jobs: Mapping[str, Job] | None = None, **more: Any
) -> set[tuple[str, str]]:
    """Which invariants were broken, by which jobs."""
    evidence = Evidence(
        records=what_happened() if records is None else records,
        jobs=ledger() if jobs is None else jobs,
        **more,
    )
    return {(one.invariant, one.job) for one in violations(evidence)}


def forged(alter: Alteration) -> list[Record]:
    records = what_happened()
    alter(records)
    return records


def without(event_name: str, job_id: str) -> list[Record]:
    return [r for r in what_happened() if (r.event, r.job) != (event_name, job_id)]


def test_what_really_happened_is_accepted() -> None:
    effects = [(CALM, 1), (STRUCK, 2)]
    assert (
        judged(histories={CALM: told()}, earlier=list(ledger().values()), effects=effects) == set()
    )


def test_a_lost_job_is_reported() -> None:
    jobs = ledger()
    del jobs[CALM]
    assert ("C1", CALM) in judged(jobs=jobs)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.BLOCKED])
def test_a_job_that_never_ended_is_reported(state: JobState) -> None:
    jobs = ledger() | {CALM: job(CALM, state)}
    assert ("C1", CALM) in judged(jobs=jobs)


def test_a_job_that_nobody_enqueued_is_reported() -> None:
    assert judged(jobs=ledger() | {"stranger": job("stranger", JobState.CANCELLED, attempt=0)}) == {
        ("C2", "stranger")
    }


def test_a_job_that_completed_without_having_run_is_reported() -> None:
    assert judged(without("started", CALM)) == {("C3", CALM)}


def test_one_attempt_handed_out_twice_is_reported() -> None:
    records = forged(lambda r: r.extend(run(10.5, "second", CALM, 1, until="claimed")))
    assert ("C4", CALM) in judged(records)


def test_attempts_that_do_not_rise_are_reported() -> None:
    records = forged(lambda r: r.extend(run(40, "third", STRUCK, 1, until="claimed")))
    assert ("C4", STRUCK) in judged(records)


def test_an_attempt_that_reached_nobody_is_reported_where_nothing_was_disturbed() -> None:
    records = [r for r in what_happened() if r.job != STRUCK and r.event != "dying"]
    jobs = {CALM: job(CALM, attempt=2)}
    assert ("C4", CALM) in judged(records, jobs)


def test_two_valid_leases_at_once_are_reported() -> None:
    """The first worker lived, and was to be trusted for seven seconds more."""
    records = [r for r in what_happened() if r.event != "dying"]
    records = [replace(r, monotonic=23 + (r.monotonic - 30) / 10,
                       detail={**r.detail, "before": 22.9, "lease": LEASE})
               if r.job == STRUCK and r.attempt == 2 else r
               for r in records]  # fmt: skip
    assert ("C4", STRUCK) in judged(records)


def test_a_lease_that_was_renewed_counts_from_its_renewal() -> None:
    def renew(records: list[Record]) -> None:
        renewed = {"before": 25.0, "lease": LEASE}
        records.append(record(25, "first", "renewed", STRUCK, attempt=1, **renewed))

    lived = [r for r in forged(renew) if r.event != "dying"]
    stopped = [*lived, record(26, "test", "stopped", process="first")]
    assert judged(stopped) == {("C4", STRUCK)}
    died = [*lived, record(26, "test", "killed", process="first")]
    assert judged(died) == set()


@pytest.mark.parametrize(
    "change", [{"state": JobState.FAILED}, {"attempt": 2}, {"result": b"another"}]
)
def test_an_end_that_changed_is_reported(change: dict[str, Any]) -> None:
    before = replace(job(CALM), **change)
    assert ("C5", CALM) in judged(earlier=[before])


def test_a_job_that_rose_from_the_dead_is_reported() -> None:
    records = forged(lambda r: r.extend(run(50, "second", CALM, 2, until="claimed")))
    assert ("C5", CALM) in judged(records)
    assert ("C5", CALM) in judged(jobs=ledger() | {CALM: job(CALM, JobState.RUNNING)},
                                  earlier=[job(CALM)])  # fmt: skip


@pytest.mark.parametrize("verb", ["complete", "abandon", "dead_letter"])
def test_an_outcome_accepted_from_a_worker_that_had_lost_its_lease_is_reported(verb: str) -> None:
    late = [
        record(35, "first", "settling", STRUCK, attempt=1, verb=verb),
        record(36, "first", "settled", STRUCK, attempt=1, verb=verb, accepted=True),
    ]
    assert ("C5", STRUCK) in judged([*what_happened(), *late])
    refused = [late[0], replace(late[1], detail={"verb": verb, "accepted": False})]
    assert judged([*what_happened(), *refused]) == set()


def test_a_completion_by_another_attempt_than_the_last_is_reported() -> None:
    assert ("C5", CALM) in judged(jobs=ledger() | {CALM: job(CALM, attempt=2)})


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_history_that_cannot_have_been_is_reported(left_out: int) -> None:
    events = told()
    del events[left_out]
    assert judged(histories={CALM: events}) == {("C5", CALM)}


def test_a_second_effect_without_an_interruption_is_reported() -> None:
    twice = record(12.5, "first", "effect", CALM, attempt=1)
    assert judged([*what_happened(), twice]) == {("C6", CALM)}
    undisturbed = [r for r in what_happened() if r.event != "dying"]
    assert ("C6", STRUCK) in judged(undisturbed)


def test_more_effects_than_interruptions_allow_are_reported() -> None:
    more = record(33, "third", "effect", STRUCK, attempt=3)
    assert ("C6", STRUCK) in judged([*what_happened(), more])


def test_an_interruption_of_others_excuses_nothing() -> None:
    """It came after the job was done with, or met another process."""
    twice = record(12.5, "second", "effect", CALM, attempt=2)
    late = record(60, "test", "killed", process="first")
    elsewhere = record(11.5, "test", "killed", process="another")
    assert ("C6", CALM) in judged([*what_happened(), twice, late])
    assert ("C6", CALM) in judged([*what_happened(), twice, elsewhere])
    cut = record(11.5, "test", "cut", process=EVERYBODY)
    assert judged([*what_happened(), twice, cut]) == set()


@pytest.mark.parametrize(
    "effects",
    [
        pytest.param([(CALM, 1), (STRUCK, 1), (STRUCK, 2)], id="one too many"),
        pytest.param([(CALM, 1)], id="one too few"),
        pytest.param([(CALM, 1), (STRUCK, 1)], id="that of an attempt which was rolled back"),
        pytest.param([(CALM, 1), (STRUCK, 2), ("stranger", 1)], id="a stranger's"),
    ],
)
def test_effects_that_are_not_one_for_each_completed_job_are_reported(
    effects: list[tuple[str, int]],
) -> None:
    assert {invariant for invariant, _ in judged(effects=effects)} == {"C6"}


def test_an_effect_of_a_job_that_did_not_complete_is_reported() -> None:
    jobs = ledger() | {CALM: job(CALM, JobState.FAILED)}
    assert ("C6", CALM) in judged(jobs=jobs, effects=[(CALM, 1), (STRUCK, 2)])


def test_an_interruption_excuses_what_was_on_its_way_to_the_process() -> None:
    """The claim had been asked for, and its answer came only when the process thawed."""
    frozen = record(9.95, "test", "stopped", process="first")
    jobs = ledger() | {CALM: job(CALM, crashes=1)}
    assert judged([*what_happened(), frozen], jobs) == set()
    too_early = record(9.8, "test", "stopped", process="first")
    assert judged([*what_happened(), too_early], jobs) == {("C9", CALM)}


def test_crashes_and_failures_that_did_not_happen_are_reported() -> None:
    assert judged(jobs=ledger() | {CALM: job(CALM, crashes=1)}) == {("C9", CALM)}
    assert judged(jobs=ledger() | {CALM: job(CALM, failures=1)}) == {("C9", CALM)}
    failing = record(11.5, "first", "failing", CALM, attempt=1)
    assert judged([*what_happened(), failing], ledger() | {CALM: job(CALM, failures=1)}) == set()
