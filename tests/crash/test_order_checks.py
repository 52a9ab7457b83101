"""Each forged breach of order, of a pause, of a lease's end or of a report must be reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobbus.job import EventType, JobState
from tests.crash.checker import EVERYBODY
from tests.crash.history import Record
from tests.crash.test_checker import (
    CALM,
    LEASE,
    STRUCK,
    forged,
    job,
    judged,
    ledger,
    record,
    run,
    told,
    what_happened,
)


def asked_with(job_id: str, **detail: Any) -> list[Record]:
    """What happened, with this said of a job when it was enqueued."""
    return [
        replace(r, detail=detail) if (r.event, r.job) == ("enqueuing", job_id) else r
        for r in what_happened()
    ]


def test_a_job_that_began_before_the_one_it_waits_for_had_ended_is_reported() -> None:
    assert judged(asked_with(STRUCK, after=[CALM])) == set()
    assert ("C7", CALM) in judged(asked_with(CALM, after=[STRUCK]))


def test_a_group_that_ran_out_of_order_is_reported() -> None:
    grouped = [replace(r, detail={"group": "one"}) if r.event == "enqueuing" else r
               for r in what_happened()]  # fmt: skip
    assert judged(grouped) == set()
    turned = [grouped[1], grouped[0], *grouped[2:]]
    assert ("C7", CALM) in judged(turned)


def test_of_two_producers_at_once_no_order_is_expected() -> None:
    grouped = [replace(r, detail={"group": "one"}, process=f"producer of {r.job}")
               if r.event == "enqueuing" else r for r in what_happened()]  # fmt: skip
    assert judged([grouped[1], grouped[0], *grouped[2:]]) == set()


def test_a_cancelled_job_that_started_or_changed_is_reported() -> None:
    early = record(5, "test", "cancelled", CALM)
    assert judged([*what_happened(), early]) == {("C12", CALM)}
    jobs = ledger() | {CALM: job(CALM, JobState.CANCELLED)}
    assert ("C12", CALM) in judged([*what_happened(), early], jobs)


def test_a_job_from_a_paused_queue_is_reported() -> None:
    def during(begin: float, end: float) -> list[Record]:
        return [
            *what_happened(),
            record(begin, "test", "paused", queue="default"),
            record(end, "test", "resuming", queue="default"),
        ]

    assert judged(during(15, 18)) == set()
    assert judged(during(9, 18)) == {("C12", CALM)}
    # It may have been claimed before the pause, and heard of after.
    assert judged(during(9.95, 18)) == set()


@pytest.mark.parametrize("event", ["started", "effect"])
def test_whoever_works_on_after_its_lease_has_run_out_is_reported(event: str) -> None:
    def late(records: list[Record]) -> None:
        for index, one in enumerate(records):
            if one.job == CALM and one.event == event:
                records[index] = replace(one, monotonic=9.9 + LEASE + 1.5)

    assert judged(forged(late)) == {("C4", CALM)}
    frozen = record(12, "test", "stopped", process="first")
    assert judged([*forged(late), frozen]) == set()


def test_a_clock_that_was_set_forward_ends_leases_early() -> None:
    taken_over = run(15, "second", CALM, 2)
    calm = ledger() | {CALM: job(CALM, attempt=2, crashes=1)}
    records = [
        r for r in what_happened() if r.job != CALM or r.event not in ("settling", "settled")
    ]
    jumped = record(12, "test", "jumped", process=EVERYBODY, by=3600.0)
    assert ("C4", CALM) in judged([*records, *taken_over], calm)
    assert judged([*records, *taken_over, jumped], calm) == set()


def test_a_history_is_not_blamed_for_a_clock_that_was_set_back() -> None:
    events = told()
    events[2] = replace(events[2], at=events[0].at)
    back = record(12, "test", "jumped", process=EVERYBODY, by=-10.0)
    assert judged(histories={CALM: events}) == {("C5", CALM)}
    assert judged([*what_happened(), back], histories={CALM: events}) == set()


def test_crashes_that_are_told_and_not_counted_or_counted_and_not_told_are_reported() -> None:
    events = [*told()[:2], replace(told()[2], type=EventType.CRASHED, to_state=JobState.QUEUED)]
    died = record(11.5, "test", "killed", process="first")
    records = [*what_happened(), died]
    assert ("C9", CALM) in judged(records, histories={CALM: events})
    crashed = ledger() | {CALM: job(CALM, crashes=1)}
    assert judged(records, crashed, histories={CALM: told()}) == {("C5", CALM)}


def test_a_shutdown_in_good_order_excuses_no_crash() -> None:
    drained = record(11.5, "first", "draining")
    assert judged([*what_happened(), drained], ledger() | {CALM: job(CALM, crashes=1)}) == {
        ("C9", CALM)
    }


def test_reports_that_are_missing_or_repeated_are_reported() -> None:
    reports = [
        record(12, "first", "reported", CALM, attempt=1, outcome="completed"),
        record(32, "second", "reported", STRUCK, attempt=2, outcome="completed"),
    ]
    assert judged([*what_happened(), *reports]) == set()
    assert judged([*what_happened(), *reports, reports[0]]) == {("C13", CALM)}
    other = record(12, "first", "reported", STRUCK, attempt=1, outcome="lost")
    assert judged([*what_happened(), other]) == {("C13", CALM)}
