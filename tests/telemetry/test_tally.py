"""The counts: what is counted as what, how it is cut into buckets, and how many names there are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.message import Delivery, Message
from jobbus.telemetry import names
from jobbus.telemetry.names import BUCKETS, INSTRUMENTS, MAX_SERIES, Instrument, Kind
from jobbus.telemetry.tally import Labels, Tally


def delivery(job_type: str = "work", queue: str = "default", *, crashes: int = 0) -> Delivery:
    message = Message(job_id="1", job_type=job_type, payload=b"{}", queue=queue)
    return Delivery(message=message, receipt=None, attempt=1, crashes=crashes, wait=timedelta(0))


def read(tally: Tally, instrument: Instrument) -> dict[Labels, float]:
    return next(dict(one.values) for one in tally.readings() if one.instrument is instrument)


@pytest.fixture
def tally() -> Tally:
    return Tally(lambda job_type: job_type.startswith("work"))


@pytest.mark.parametrize(("outcome", "instrument"), names.OUTCOMES.items())
def test_every_outcome_is_counted_in_its_own_counter(
    tally: Tally, outcome: str, instrument: Instrument
) -> None:
    tally.attempted(delivery(), outcome, 0.1, 0.1)
    for other in names.OUTCOMES.values():
        expected = {("default", "work"): 1} if other is instrument else {}
        assert read(tally, other) == expected


def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed(tally: Tally) -> None:
    tally.attempted(delivery(), "completed", BUCKETS[3], 10_000)
    durations, waits = (dict(found) for _, found in tally.distributions())
    ran, waited = durations["default", "work", "completed"], waits["default", "work"]
    assert ran.counts == [int(index == 3) for index in range(len(BUCKETS) + 1)]
    assert ran.total == BUCKETS[3]
    assert waited.counts[-1] == sum(waited.counts) == 1


def test_waits_are_summed_over_outcomes(tally: Tally) -> None:
    tally.attempted(delivery(), "completed", 1, 2)
    tally.attempted(delivery(), "dead", 1, 3)
    _, (_, waits) = tally.distributions()
    assert waits["default", "work"].total == 5
    assert sum(waits["default", "work"].counts) == 2


def test_job_types_without_a_handler_here_are_counted_together(tally: Tally) -> None:
    for name in ("mine", "yours"):
        tally.attempted(delivery(name), "snoozed", 0.1, 0.1)
    assert read(tally, names.SNOOZED) == {("default", "other"): 2}


def test_a_flood_of_names_ends_in_one_series() -> None:
    """S-16: strangers' names cannot fill the memory of a worker, nor of Prometheus."""
    tally = Tally(lambda job_type: True)
    for number in range(MAX_SERIES + 50):
        tally.attempted(delivery(f"type-{number}"), "completed", 0.1, 0.1)
        tally.enqueued([delivery(f"type-{number}").message])
    for instrument in (names.COMPLETED, names.ENQUEUED):
        counts = read(tally, instrument)
        assert len(counts) == MAX_SERIES + 1
        assert counts["other", "other"] == 50


def test_an_outcome_that_was_refused_is_counted_as_fenced(tally: Tally) -> None:
    tally.refused(delivery())
    assert read(tally, names.FENCED) == {("default", "work"): 1}


def test_what_was_never_started_is_released_and_has_no_duration(tally: Tally) -> None:
    tally.returned(delivery())
    assert read(tally, names.RELEASED) == {("default", "work"): 1}
    assert [dict(found) for _, found in tally.distributions()] == [{}, {}]


def test_attempts_at_jobs_that_killed_a_process_are_counted_as_rescued(tally: Tally) -> None:
    tally.attempted(delivery(crashes=1), "completed", 0.1, 0.1)
    tally.attempted(delivery(), "completed", 0.1, 0.1)
    assert read(tally, names.RESCUED) == {("default", "work"): 1}


def test_what_is_expected_is_counted_from_zero(tally: Tally) -> None:
    """A rate needs two points: a series that begins at 1 hides its first failure."""
    tally.expect([("default", "work")])
    assert read(tally, names.FAILED) == {("default", "work"): 0}


def test_answers_of_the_idempotency_store_are_counted(tally: Tally) -> None:
    for answer in ("hit", "miss", "hit"):
        tally.idempotency(answer)
    assert read(tally, names.IDEMPOTENCY) == {("hit",): 2, ("miss",): 1}


def test_the_instruments_of_s2_have_the_names_that_its_queries_use() -> None:
    series = {name for one in INSTRUMENTS[:7] for name in one.series}
    assert series >= {
        "background_jobs_queue_depth",
        "background_jobs_completed_total",
        "background_jobs_failed_total",
        "background_jobs_duration_bucket",
        "background_jobs_queue_wait_time_bucket",
        "background_jobs_enqueued_total",
        "background_jobs_retried_total",
    }


def test_no_unit_would_change_a_name() -> None:
    """Exporters append units such as ``s``; those in braces, and 1 of gauges, they leave out."""
    for one in INSTRUMENTS:
        assert one.unit.startswith("{") or (one.unit == "1" and one.kind is Kind.GAUGE), one.name


def test_names_are_told_once() -> None:
    assert len({one.name for one in INSTRUMENTS}) == len(INSTRUMENTS)
