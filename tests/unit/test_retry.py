"""What becomes of an attempt that failed: every kind of error, at every stage, in one table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobbus.errors import (
    BackendUnavailable,
    Cancelled,
    ConfigurationError,
    HandlerCrashed,
    InvalidJob,
    MissingDependency,
    PayloadError,
    PayloadTooLarge,
    PermanentError,
    RateLimited,
    Reject,
    Retry,
    Snooze,
    Unsupported,
)
from jobbus.retry import (
    MAX_DELAY,
    PRESETS,
    Again,
    Backoff,
    Decision,
    GiveUp,
    RetryPolicy,
    Stop,
    decide,
)

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
POLICY = RetryPolicy(base=10 * SECOND, permanent=(LookupError,), random=lambda: 0.5)
"""Three tries; the jitter comes out at three quarters of the plain back-off."""
FIRST, SECOND_TRY, LAST = 0, 1, 2
"""Failures so far."""

TABLE: list[tuple[str, BaseException, int, Decision]] = [
    # temporary: whatever is not known to be something else
    ("an unknown error", ValueError("x"), FIRST, Again(delay=7.5 * SECOND)),
    ("the same again", ValueError("x"), SECOND_TRY, Again(delay=15 * SECOND)),
    ("once too often", ValueError("x"), LAST, GiveUp()),
    ("more failures than tries", ValueError("x"), 7, GiveUp()),
    ("the network", ConnectionError("x"), FIRST, Again(delay=7.5 * SECOND)),
    ("a database that is away", BackendUnavailable("x"), FIRST, Again(delay=7.5 * SECOND)),
    ("out of memory", MemoryError(), FIRST, Again(delay=7.5 * SECOND)),
    ("an assertion", AssertionError(), FIRST, Again(delay=7.5 * SECOND)),
    # time
    ("out of time", TimeoutError("x"), FIRST, Again(delay=7.5 * SECOND)),
    ("out of time for good", TimeoutError("x"), LAST, GiveUp(timed_out=True)),
    # permanent
    ("permanent", PermanentError("x"), FIRST, GiveUp()),
    ("rejected", Reject("x"), FIRST, GiveUp()),
    ("an unreadable payload", PayloadError("x"), FIRST, GiveUp()),
    ("a result too large", PayloadTooLarge("x"), FIRST, GiveUp()),
    ("a handler that cannot work", ConfigurationError("x"), FIRST, GiveUp()),
    ("a backend that cannot", Unsupported("x"), FIRST, GiveUp()),
    ("a library that is missing", MissingDependency("x"), FIRST, GiveUp()),
    ("the policy's own permanent", KeyError("x"), FIRST, GiveUp()),
    # signals that cost nothing
    ("snoozed", Snooze(30 * SECOND), FIRST, Again(delay=30 * SECOND, counts=False)),
    ("snoozed at the last try", Snooze(30 * SECOND), LAST, Again(delay=30 * SECOND, counts=False)),
    ("snoozed for no time", Snooze(0 * SECOND), LAST, Again(delay=0 * SECOND, counts=False)),
    ("snoozed into the past", Snooze(-SECOND), LAST, Again(delay=0 * SECOND, counts=False)),
    ("snoozed for ever", Snooze(999 * HOUR), LAST, Again(delay=MAX_DELAY, counts=False)),
    ("rate-limited", RateLimited(20 * SECOND), LAST, Again(delay=21 * SECOND, counts=False)),
    ("rate-limited a bit", RateLimited(0 * SECOND), LAST, Again(delay=1.05 * SECOND, counts=False)),
    ("rate-limited too long", RateLimited(9 * HOUR), LAST, Again(delay=1.05 * HOUR, counts=False)),
    # signals that cost an attempt
    ("retry as the policy says", Retry("x"), SECOND_TRY, Again(delay=15 * SECOND)),
    ("retry when told", Retry("x", after=HOUR), SECOND_TRY, Again(delay=HOUR)),
    ("retry at once", Retry("x", after=0 * SECOND), FIRST, Again(delay=0 * SECOND)),
    ("retry in the past", Retry("x", after=-HOUR), FIRST, Again(delay=0 * SECOND)),
    ("retry much later", Retry("x", after=999 * HOUR), FIRST, Again(delay=MAX_DELAY)),
    ("retry once too often", Retry("x", after=HOUR), LAST, GiveUp()),
    # the end
    ("cancelled", Cancelled("x"), FIRST, Stop()),
    ("cancelled at the last try", Cancelled("x"), LAST, Stop()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "failures", "expected"),
    [pytest.param(*row[1:], id=row[0]) for row in TABLE],
)
def test_each_error_has_its_decision(
    error: BaseException, failures: int, expected: Decision
) -> None:
    assert decide(error, failures=failures, policy=POLICY) == expected


def test_a_dead_process_is_counted_elsewhere_and_never_permanent() -> None:
    assert isinstance(decide(HandlerCrashed("x"), failures=0, policy=POLICY), Again)


def test_what_an_enqueue_in_the_handler_refused_may_be_tried_again() -> None:
    assert isinstance(decide(InvalidJob("x"), failures=0, policy=POLICY), Again)


@pytest.mark.parametrize(
    ("limit", "failures", "again"), [(1, 0, False), (5, 3, True), (5, 4, False)]
)
def test_a_jobs_own_number_of_tries_stands_over_the_policys(
    limit: int, failures: int, again: bool
) -> None:
    decision = decide(ValueError(), failures=failures, policy=POLICY, max_attempts=limit)
    assert isinstance(decision, Again) is again


def test_a_permanent_class_takes_its_subclasses_with_it() -> None:
    assert decide(IndexError(), failures=0, policy=POLICY) == GiveUp()
    assert isinstance(decide(IndexError(), failures=0, policy=RetryPolicy()), Again)


PLAIN_DELAYS = {
    Backoff.EXPONENTIAL: [2, 4, 8, 16, 20, 20],
    Backoff.LINEAR: [2, 4, 6, 8, 10, 12],
    Backoff.FIXED: [2, 2, 2, 2, 2, 2],
}


@pytest.mark.parametrize("backoff", list(Backoff))
def test_delays_grow_as_the_policy_says_up_to_its_cap(backoff: Backoff) -> None:
    policy = RetryPolicy(backoff=backoff, base=2 * SECOND, cap=20 * SECOND, jitter=False)
    assert [policy.delay(n).total_seconds() for n in range(1, 7)] == PLAIN_DELAYS[backoff]


@pytest.mark.parametrize("backoff", list(Backoff))
def test_a_delay_before_the_first_failure_is_that_after_it(backoff: Backoff) -> None:
    policy = RetryPolicy(backoff=backoff, jitter=False)
    assert policy.delay(0) == policy.delay(1)


@given(
    st.integers(1, 10**9),
    st.floats(0, 1, exclude_max=True),
    st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30)),
    st.sampled_from(Backoff),
)
def test_a_delay_lies_between_half_and_all_of_the_plain_one_and_never_beyond_a_day(
    failures: int, drawn: float, cap: timedelta, backoff: Backoff
) -> None:
    known: dict[str, Any] = {"backoff": backoff, "base": 3 * SECOND, "cap": cap}
    plain = RetryPolicy(**known, jitter=False).delay(failures)
    jittered = RetryPolicy(**known, random=lambda: drawn).delay(failures)
    assert plain <= min(cap, MAX_DELAY)
    assert plain / 2 - timedelta(microseconds=1) <= jittered <= plain


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"max_attempts": 0}, "at least 1, not 0"),
        ({"base": -SECOND}, "cannot be negative"),
        ({"cap": -SECOND}, "cannot be negative"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RetryPolicy(**wrong)


def test_policies_that_say_the_same_are_equal_whatever_they_draw_from() -> None:
    assert RetryPolicy() == RetryPolicy(random=lambda: 0.0)


SOURCE_SYSTEMS = {
    "default": (3, Backoff.EXPONENTIAL, 5, 300, True),
    "aura": (3, Backoff.EXPONENTIAL, 5, 300, True),
    "bull": (3, Backoff.EXPONENTIAL, 2, 300, True),
    "honua": (4, Backoff.EXPONENTIAL, 5, 300, True),
    "cleancue": (3, Backoff.FIXED, 5, 300, False),
    "reporadar": (3, Backoff.EXPONENTIAL, 1, 300, True),
    "none": (1, Backoff.EXPONENTIAL, 5, 300, True),
}


def test_the_presets_have_the_values_that_people_rely_on() -> None:
    assert {
        name: (p.max_attempts, p.backoff, p.base.total_seconds(), p.cap.total_seconds(), p.jitter)
        for name, p in PRESETS.items()
    } == SOURCE_SYSTEMS
