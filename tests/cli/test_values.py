"""What people type: spans of time, moments, states, names and weights."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobbus.cli.failures import BadUsage
from jobbus.cli.values import (
    job_id,
    job_type_pattern,
    parse_duration,
    parse_moment,
    parse_queues,
    parse_since,
    parse_states,
    queue_name,
)
from jobbus.errors import InvalidJob
from jobbus.job import JobState


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("250ms", 0.25),
        ("10m", 600),
        ("2h", 7_200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("1h30m", 5_400),
        ("1h 30m", 5_400),
        ("10M", 600),
    ],
)
def test_a_span_of_time_is_understood(text: str, seconds: float) -> None:
    assert parse_duration("--in", text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "10x", "m10", "1h30", "h", "1e3", "٣", "9" * 400])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(BadUsage, match="--in"):
        parse_duration("--in", text)


@pytest.mark.parametrize("text", ["-1", "-5m", "-1h30m"])
def test_a_negative_span_of_time_is_an_invalid_job(text: str) -> None:
    with pytest.raises(InvalidJob, match="cannot be negative"):
        parse_duration("--in", text)


def test_a_moment_comes_out_in_utc() -> None:
    found = parse_moment("--at", "2030-01-31T09:30:00+02:00")
    assert found == datetime(2030, 1, 31, 7, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tomorrow", "takes a moment"),
        ("2030-01-31T09:30:00", "time zone"),
        ("2030-13-01T00:00:00Z", "takes a moment"),
        ("0001-01-01T00:00:00+14:00", "no moment in UTC"),
    ],
)
def test_a_moment_that_is_none_or_ambiguous_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadUsage, match=why):
        parse_moment("--at", text)


def test_since_takes_how_long_ago_or_a_moment() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert parse_since("--since", "2h", now) == now - timedelta(hours=2)
    assert parse_since("--since", "2029-01-01T00:00:00Z", now).year == 2029
    with pytest.raises(BadUsage, match="before all calendars"):
        parse_since("--since", "999999w", now)


@pytest.mark.parametrize(
    ("words", "states"),
    [
        (["dead"], {JobState.FAILED, JobState.TIMED_OUT}),
        (["Timed-Out"], {JobState.TIMED_OUT}),
        (["queued,running"], {JobState.QUEUED, JobState.RUNNING}),
        (["processing", "waiting"], {JobState.RUNNING, JobState.QUEUED}),
        ([], set()),
    ],
)
def test_states_are_understood_in_every_usual_word(words: list[str], states: set[JobState]) -> None:
    assert parse_states(words) == states


def test_an_unknown_state_is_refused_with_what_was_meant() -> None:
    with pytest.raises(BadUsage) as caught:
        parse_states(["runing"])
    assert caught.value.fix == "did you mean running?"
    assert "retrying" in caught.value.why


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("default", {"default": 1.0}),
        ("high:3,default", {"high": 3.0, "default": 1.0}),
        ("high:2.5, low:0.5", {"high": 2.5, "low": 0.5}),
        ("tenant:acme,eu:west:4", {"tenant:acme": 1.0, "eu:west": 4.0}),
    ],
)
def test_queues_have_weights(text: str, weights: dict[str, float]) -> None:
    assert parse_queues(text) == weights


@pytest.mark.parametrize("text", ["", "a,,b", "high:0", "a b", "x" * 65])
def test_queues_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(BadUsage):
        parse_queues(text)


def test_names_of_queues_are_checked_before_they_reach_a_backend() -> None:
    assert queue_name("a.b:c-d_1") == "a.b:c-d_1"
    for wrong in ("", "a b", "a\x1b[31m", "queue'; drop table", "q" * 65):
        with pytest.raises(BadUsage):
            queue_name(wrong)


def test_job_types_may_be_prefixes() -> None:
    assert job_type_pattern("email.*") == "email.*"
    assert job_type_pattern("*") == "*"
    for wrong in ("", "e*mail", "a b", "%"):
        with pytest.raises(BadUsage):
            job_type_pattern(wrong)


def test_a_job_id_is_brought_to_its_usual_form() -> None:
    assert job_id("--parent", "0190A0B0-0000-7000-8000-0000000000FF").endswith("ff")
    with pytest.raises(BadUsage, match="is no job id"):
        job_id("--parent", "nonsense")
