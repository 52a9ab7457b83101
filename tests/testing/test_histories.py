"""The checker of histories, checked: it takes the possible and refuses each kind of nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from jobbus.job import EventType as E
from jobbus.job import Job, JobEvent, JobState
from jobbus.testing import check_history

S = JobState
START = datetime(2030, 1, 1, tzinfo=UTC)
Step = tuple[E, S | None, S, int]
CREATED: Step = (E.CREATED, None, S.QUEUED, 0)
STARTED: Step = (E.STARTED, S.QUEUED, S.RUNNING, 1)
RETRY: Step = (E.RETRY_SCHEDULED, S.RUNNING, S.RETRYING, 1)
RELEASED: Step = (E.RELEASED_TO_QUEUE, S.RETRYING, S.QUEUED, 1)
AGAIN: Step = (E.STARTED, S.QUEUED, S.RUNNING, 2)
COMPLETED: Step = (E.COMPLETED, S.RUNNING, S.COMPLETED, 2)
STORY = [CREATED, STARTED, RETRY, RELEASED, AGAIN, COMPLETED]


def told(steps: Sequence[Step]) -> list[JobEvent]:
    return [
        JobEvent(
            job_id="a",
            type=kind,
            at=START + index * timedelta(seconds=1),
            from_state=origin,
            to_state=to,
            attempt=attempt,
        )
        for index, (kind, origin, to, attempt) in enumerate(steps)
    ]


def job(state: JobState, attempt: int) -> Job:
    return Job(
        id="a",
        job_type="t",
        queue="q",
        state=state,
        priority=5,
        payload=b"",
        attempt=attempt,
        failures=0,
        crashes=0,
        snoozes=0,
        max_attempts=3,
        generation=1,
        created_at=START,
        run_at=START,
    )


def test_a_possible_history_is_taken() -> None:
    check_history(told(STORY), job(S.COMPLETED, 2))


def test_a_fence_changes_nothing() -> None:
    fenced: Step = (E.FENCED, S.RUNNING, S.RUNNING, 1)
    check_history(told([*STORY[:5], fenced, COMPLETED]), job(S.COMPLETED, 2))
    with pytest.raises(AssertionError, match="fence"):
        check_history(told([*STORY[:5], (E.FENCED, S.RUNNING, S.QUEUED, 1)]))


@pytest.mark.parametrize(
    "steps",
    [
        [],
        STORY[1:],
        [CREATED, CREATED],
        [(E.CREATED, None, S.RUNNING, 0)],
        [(E.CREATED, S.QUEUED, S.QUEUED, 0)],
        [CREATED, RETRY],
        [CREATED, STARTED, RETRY, AGAIN],
        [CREATED, STARTED, AGAIN],
        [CREATED, (E.COMPLETED, S.QUEUED, S.COMPLETED, 0)],
        [*STORY[:4], STARTED],
        [*STORY[:5], (E.COMPLETED, S.RUNNING, S.COMPLETED, 1)],
        [*STORY, (E.STARTED, S.COMPLETED, S.RUNNING, 3)],
        [*STORY, (E.REDRIVEN, S.COMPLETED, S.QUEUED, 2)],
    ],
    ids=[
        "nothing",
        "no beginning",
        "two beginnings",
        "created running",
        "created out of something",
        "an end without a start",
        "a missing step",
        "two starts in a row",
        "completed without a start",
        "the same attempt again",
        "the end of another attempt",
        "started after the end",
        "a completed job redriven",
    ],
)
def test_an_impossible_history_is_refused(steps: list[Step]) -> None:
    with pytest.raises(AssertionError):
        check_history(told(steps))


def test_time_does_not_go_back_within_a_history() -> None:
    events = told(STORY)
    events[3] = replace(events[3], at=START)
    with pytest.raises(AssertionError, match="comes after"):
        check_history(events)


def test_events_of_another_job_do_not_belong() -> None:
    events = told(STORY)
    events[3] = replace(events[3], job_id="b")
    with pytest.raises(AssertionError, match="history of"):
        check_history(events)


@pytest.mark.parametrize(("state", "attempt"), [(S.FAILED, 2), (S.COMPLETED, 3)])
def test_a_history_ends_where_its_job_stands(state: JobState, attempt: int) -> None:
    with pytest.raises(AssertionError):
        check_history(told(STORY), job(state, attempt))
