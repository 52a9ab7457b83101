"""Errors are told in three lines, each with the exit code that belongs to it."""

from __future__ import annotations

import io

import pytest

from jobbus import errors
from jobbus.cli.failures import BadUsage, Conflict, NothingFound, explain, tell
from jobbus.errors import JobbusError


def all_errors(kind: type[JobbusError] = JobbusError) -> list[type[JobbusError]]:
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [kind, *(one for each in below for one in all_errors(each))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_jobbus_says_what_why_and_its_name(kind: type[JobbusError]) -> None:
    account = explain(kind("because of this"))
    assert account.name == kind.__name__
    assert account.what
    assert account.why == "because of this"
    assert account.exit_code == kind.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.JobFailed("x"), 1),
        (errors.ConfigurationError("x"), 2),
        (errors.PayloadTooLarge("x"), 2),
        (errors.UnknownJobType("x"), 2),
        (errors.BackendUnavailable("x"), 3),
        (errors.JobNotFound("x"), 4),
        (errors.LeaseLost("x"), 5),
        (BadUsage("x"), 2),
        (NothingFound("x"), 4),
        (Conflict("x"), 5),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes_are_the_documented_ones(error: Exception, code: int) -> None:
    assert tell(error, stream=io.StringIO()) == code


def told(error: Exception, *, debug: bool = False) -> str:
    stream = io.StringIO()
    tell(error, debug=debug, stream=stream)
    return stream.getvalue()


def test_an_error_is_three_lines_and_no_traceback() -> None:
    text = told(BadUsage("that cannot be", why="it is odd", fix="do this"))
    assert text == "error: that cannot be (BadUsage)\n  why: it is odd\n  fix: do this\n"


def test_debug_adds_the_traceback_with_its_causes() -> None:
    try:
        try:
            raise ValueError("the root of it")
        except ValueError as cause:
            raise errors.BackendError("above") from cause
    except errors.BackendError as error:
        text = told(error, debug=True)
    assert "Traceback" in text
    assert "the root of it" in text
    assert "Traceback" not in told(errors.BackendError("above"))


def test_what_an_unexpected_error_is_told_as() -> None:
    text = told(ZeroDivisionError("division by zero"))
    assert "(ZeroDivisionError)" in text
    assert "--debug" in text
    assert "Traceback" not in text


def test_errors_carry_no_escape_codes_and_no_passwords() -> None:
    text = told(errors.BackendUnavailable("postgresql://u:s3cret@h/db\nsecond\x1b[31m"), debug=True)
    assert "s3cret" not in text
    assert "\x1b" not in text
    assert "\n       second" in text


def test_a_note_stands_in_place_of_the_usual_advice() -> None:
    error = errors.UnknownJobType("no such type")
    error.add_note("do it like this")
    assert explain(error).fix == "do it like this"
