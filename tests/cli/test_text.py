"""Text from anywhere, made safe and short."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from jobbus.cli.text import (
    ago,
    counted,
    did_you_mean,
    masked,
    moment,
    plain,
    plain_lines,
    shortened,
    span,
    to_json,
)

NASTY = "a\x1b[31m\r\n\x07\x9b1m\u202e\u200b\ud800\x7fé"


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    text = plain(NASTY)
    assert text == "a\\u001b[31m\\r\\n\\u0007\\u009b1m\\u202e\\u200b\\ud800\\u007fé"
    assert plain("Grüße, 世界 🙂") == "Grüße, 世界 🙂"


def test_lines_stay_lines_where_they_are_asked_for() -> None:
    assert plain_lines("one\ntwo\x1b") == ["one", "two\\u001b"]


def test_json_is_harmless_and_means_the_same() -> None:
    value = {"text": NASTY, "tag": "\U000e0041", "plain": "é", "number": 10**40}
    text = to_json(value)
    assert text.isprintable()
    assert json.loads(text) == value
    assert "é" in text
    assert json.loads(to_json(value, indent=2)) == value


def test_json_never_has_numbers_that_are_none() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        to_json(float("nan"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:s3cret@host/db cannot be reached",
        "host=h password=s3cret user=u",
        "redis://:s3cret@host:6379/0",
    ],
)
def test_passwords_of_addresses_are_masked(text: str) -> None:
    assert "s3cret" not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (42, "42s"),
        (64, "1m 04s"),
        (3_725, "1h 02m"),
        (183_600, "2d 03h"),
        (-64, "-1m 04s"),
    ],
)
def test_spans_are_told_in_two_units(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text


def test_moments_are_told_relative_for_people_and_in_utc_for_programs() -> None:
    now = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
    assert ago(now - timedelta(minutes=2), now) == "2m 00s ago"
    assert ago(now + timedelta(seconds=5), now) == "in 5.0s"
    assert ago(None) == span(None) == ""
    assert moment(now) == "2030-01-01T12:00:00.000Z"
    assert moment(None) is None


def test_numbers_come_with_their_noun_and_say_where_counting_stopped() -> None:
    assert counted(1, "job") == "1 job"
    assert counted(0, "job") == "0 jobs"
    assert counted(12_345, "job") == "12,345 jobs"
    assert counted(10_000, "job", cap=10_000) == "10,000+ jobs"


def test_long_text_is_cut_and_typos_are_guessed() -> None:
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"
    assert did_you_mean("Emial.Send", ["email.send", "x"]) == "did you mean email.send?"
    assert did_you_mean("zzz", ["email.send"]) == ""
