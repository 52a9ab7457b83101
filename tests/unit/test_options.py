"""What a caller asks for one job is checked and becomes part of its message."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from jobbus.errors import InvalidJob, PayloadTooLarge
from jobbus.message import Dependency, Message, OnFailure, Priority
from jobbus.options import (
    NOTHING,
    EnqueueOptions,
    PriorityOrder,
    apply_options,
    due_at,
    normalise_priority,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE = "01890000-0000-7000-8000-000000000001"
TWO = "01890000-0000-7000-8000-000000000002"
MESSAGE = Message(
    job_id=ONE,
    job_type="render",
    payload=b"{}",
    headers={"traceparent": "00-1", "own": "a"},
    metadata={"by": "type"},
)


def test_options_that_ask_for_nothing_change_nothing() -> None:
    assert apply_options(MESSAGE, NOTHING, NOW) is MESSAGE
    assert apply_options(MESSAGE, EnqueueOptions(connection=object()), NOW) is MESSAGE


def test_everything_that_is_asked_for_is_in_the_message() -> None:
    options = EnqueueOptions(
        priority="HIGH",
        delay=30,
        run_at=datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
        max_attempts=7,
        timeout=0.5,
        unique_key="user 7/über",
        expires_at=NOW + timedelta(days=9),
        group="tenant-123",
        tags=["b", "a", "b"],
        metadata={"at": NOW, "n": [1]},
        queue="gpu",
        depends_on=[TWO.upper(), Dependency(TWO, OnFailure.SKIP)],
        parent_id=TWO,
        headers={"own": "b", "more": "c"},
        job_id="{01890000-0000-7000-8000-000000000003}",
    )
    assert apply_options(MESSAGE, options, NOW) == Message(
        job_id="01890000-0000-7000-8000-000000000003",
        job_type="render",
        payload=b"{}",
        queue="gpu",
        headers={"traceparent": "00-1", "own": "b", "more": "c"},
        priority=Priority.HIGH,
        group="tenant-123",
        delay=timedelta(seconds=30),
        run_at=datetime(2026, 1, 2, 1, tzinfo=UTC),
        expires_at=NOW + timedelta(days=9),
        max_attempts=7,
        timeout=timedelta(milliseconds=500),
        unique_key="user 7/über",
        depends_on=(Dependency(TWO, OnFailure.SKIP),),
        parent_id=TWO,
        tags=("b", "a"),
        metadata={"by": "type", "at": "2026-01-01T00:00:00Z", "n": [1]},
    )


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"priority": 0}, "priority is 1 to 10, higher runs sooner; not 0"),
        ({"priority": 11}, "priority is 1 to 10"),
        ({"priority": True}, "priority is a whole number"),
        ({"priority": 5.0}, "priority is a whole number"),
        ({"priority": "urgent"}, "or low, normal, high; not 'urgent'"),
        ({"delay": -1}, "delay cannot be negative: -1"),
        ({"delay": timedelta(days=-1)}, "delay cannot be negative"),
        ({"delay": math.nan}, "is no span of time"),
        ({"delay": math.inf}, "is no span of time"),
        ({"delay": 1e300}, "is no span of time"),
        ({"delay": "5"}, "delay is a timedelta or a number of seconds, not '5'"),
        ({"delay": True}, "delay is a timedelta or a number of seconds"),
        ({"run_at": datetime(2026, 1, 1)}, "has no time zone"),
        ({"run_at": "tomorrow"}, "run_at is a datetime, not 'tomorrow'"),
        ({"expires_at": datetime(2026, 1, 1)}, "has no time zone"),
        (
            {"expires_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))},
            "is no moment in UTC",
        ),
        ({"max_attempts": 0}, "counts the first try: at least 1, not 0"),
        ({"max_attempts": 1.5}, "max_attempts is a whole number"),
        ({"timeout": 0}, "timeout must be more than 0 s, not 0"),
        ({"timeout": timedelta(seconds=-1)}, "timeout must be more than 0 s"),
        ({"expires_in": 0}, "expires_in must be more than 0 s"),
        ({"unique_key": ""}, "unique_key is text of 1 to 200 characters"),
        ({"unique_key": "x" * 201}, "unique_key is text of 1 to 200 characters"),
        ({"unique_key": "a\nb"}, "characters that cannot be printed"),
        ({"unique_key": 7}, "unique_key is text"),
        ({"group": "a b"}, "group 'a b' is no name: take 1 to 64 of A-Z"),
        ({"queue": "q\n"}, "is no name"),
        ({"queue": ""}, "is no name"),
        ({"queue": "q" * 65}, "is no name"),
        ({"queue": "é"}, "is no name"),
        ({"tags": "abc"}, "did you mean ['abc']?"),
        ({"tags": ["a b"]}, "tag 'a b' is no name"),
        ({"metadata": [1]}, "metadata is a mapping"),
        ({"metadata": {"a": object()}}, "metadata, at `a`: objects of type object"),
        ({"metadata": {"a": math.nan}}, "metadata, at `a`: nan"),
        ({"metadata": {"a": "\0"}}, "NUL"),
        ({"headers": {"a b": "c"}}, "header 'a b' is no name"),
        ({"headers": {"a": "c\r\nd: e"}}, "header a is printable text"),
        ({"headers": {"a": 1}}, "header a is printable text, not 1"),
        ({"headers": "a"}, "headers is a mapping"),
        ({"depends_on": TWO}, "depends_on is a sequence"),
        ({"depends_on": ["7"]}, "depends_on '7' is no UUID"),
        ({"parent_id": "7"}, "parent_id '7' is no UUID"),
        ({"job_id": 7}, "job_id 7 is no UUID"),
        ({"job_id": TWO, "depends_on": [TWO]}, "cannot depend on itself"),
        ({"delay": 1, "delay_seconds": 1}, "delay_seconds is another name of delay"),
        ({"group": "a", "message_group_id": "a"}, "message_group_id is another name of group"),
    ],
)
def test_what_could_never_be_right_is_refused(asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        EnqueueOptions(**asked)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("asked", ["metadata", "headers"])
def test_metadata_and_headers_have_a_limit(asked: str) -> None:
    options: dict[str, Any] = {asked: {"a": "x" * 8192}}
    with pytest.raises(PayloadTooLarge, match="8,192"):
        EnqueueOptions(**options)


def test_text_that_looks_like_an_escaped_nul_is_no_nul() -> None:
    options = EnqueueOptions(metadata={"a": "\\u0000"})
    assert options.metadata == {"a": "\\u0000"}


def test_the_names_of_another_system_are_understood() -> None:
    options = EnqueueOptions(
        priority=10, delay_seconds=timedelta(seconds=30), message_group_id="tenant-123"
    )
    assert options == EnqueueOptions(priority=10, delay=30, group="tenant-123")
    assert replace(options, priority=1).delay == timedelta(seconds=30)


def test_later_options_stand_over_earlier_ones_and_leave_the_rest() -> None:
    first = EnqueueOptions(delay=5, tags=["a"], priority=3)
    assert first.merged(EnqueueOptions(delay_seconds=0, group="g")) == EnqueueOptions(
        delay=0, tags=["a"], priority=3, group="g"
    )
    assert first.merged(NOTHING) is first


def test_a_job_may_start_for_so_long_after_it_falls_due() -> None:
    later = EnqueueOptions(delay=60, expires_in=10)
    assert apply_options(MESSAGE, later, NOW).expires_at == NOW + timedelta(seconds=70)
    both = EnqueueOptions(expires_in=10, expires_at=NOW + timedelta(seconds=5))
    assert apply_options(MESSAGE, both, NOW).expires_at == NOW + timedelta(seconds=5)


def test_a_job_that_would_expire_before_it_is_due_is_refused() -> None:
    for options in (
        EnqueueOptions(expires_at=NOW),
        EnqueueOptions(delay=60, expires_at=NOW + timedelta(seconds=60)),
        EnqueueOptions(run_at=NOW + timedelta(days=1), expires_at=NOW + timedelta(hours=1)),
    ):
        with pytest.raises(InvalidJob, match=r"would expire at .* before it may start"):
            apply_options(MESSAGE, options, NOW)


def test_a_delay_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(InvalidJob, match="after the end of all calendars"):
        apply_options(MESSAGE, EnqueueOptions(delay=timedelta.max), NOW)


def test_given_a_delay_and_a_moment_the_later_one_holds() -> None:
    delayed = replace(MESSAGE, delay=timedelta(hours=1))
    assert due_at(MESSAGE, NOW) == NOW
    assert due_at(delayed, NOW) == NOW + timedelta(hours=1)
    assert due_at(replace(delayed, run_at=NOW), NOW) == NOW + timedelta(hours=1)
    assert due_at(replace(delayed, run_at=NOW + timedelta(days=1)), NOW) == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("value", "order", "expected"),
    [
        (1, "lower_first", 10),
        (10, "lower_first", 1),
        (Priority.HIGH, PriorityOrder.HIGHER_FIRST, 8),
        (3, "higher_first", 3),
        ("high", "lower_first", 8),
        (" Low ", "higher_first", 2),
    ],
)
def test_priorities_are_counted_from_either_end(
    value: int | str, order: PriorityOrder | str, expected: int
) -> None:
    assert normalise_priority(value, order) == expected
