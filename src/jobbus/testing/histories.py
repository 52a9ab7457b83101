"""Whether a job's history can have happened: every event follows from the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from jobbus.job import EventType, Job, JobEvent, JobState, allowed

BEGINNINGS: Final = frozenset(
    {JobState.CREATED, JobState.SCHEDULED, JobState.BLOCKED, JobState.QUEUED}
)
"""The states that a job can be created in."""
_ENDS_AN_ATTEMPT: Final = frozenset(
    {
        EventType.COMPLETED,
        EventType.RETRY_SCHEDULED,
        EventType.SNOOZED,
        EventType.RELEASED,
        EventType.CRASHED,
        EventType.TIMED_OUT,
    }
)


def check_history(events: Sequence[JobEvent], job: Job | None = None) -> None:
    """Raise AssertionError where the events do not follow from each other.

    Checks them against the transition table: where each leads, that times do not go back, that
    every start has a higher attempt than the one before, and that every end names the attempt
    that had started. With ``job``, also that the history ends where the job stands.
    """
    assert events, "a job has a history from the moment that it is known"
    first = events[0]
    assert first.type is EventType.CREATED, f"a history begins with created, not {first}"
    assert first.from_state is None, f"nothing comes before created: {first}"
    assert first.to_state in BEGINNINGS, f"no job is created in {first.to_state}"
    attempt = 0
    for before, event in pairwise(events):
        _check_step(before, event)
        if event.type is EventType.STARTED:
            assert event.attempt > attempt, f"attempt {attempt} is not followed by {event}"
            attempt = event.attempt
        elif event.type in _ENDS_AN_ATTEMPT:
            assert event.attempt == attempt, f"attempt {attempt} was running, and yet {event}"
    if job is not None:
        _check_end(events, attempt, job)


def _check_step(before: JobEvent, event: JobEvent) -> None:
    assert event.job_id == before.job_id, f"{event} is in the history of {before.job_id}"
    assert event.type is not EventType.CREATED, f"a job is created once: {event}"
    assert event.at >= before.at, f"{event} comes after {before}"
    assert event.from_state is before.to_state, f"{before} leads to {before.to_state}, not {event}"
    if event.type is EventType.FENCED:
        assert event.to_state is before.to_state, f"a fence changes nothing: {event}"
        return
    assert allowed(before.to_state, event.type, event.to_state), (
        f"{event.type} cannot lead from {before.to_state} to {event.to_state}"
    )


def _check_end(events: Sequence[JobEvent], attempt: int, job: Job) -> None:
    last = events[-1]
    assert last.job_id == job.id, f"this is the history of {last.job_id}, not of {job.id}"
    assert last.to_state is job.state, f"the history ends in {last}, the job is {job.state}"
    assert attempt == job.attempt, f"{attempt} starts are told, the job counts {job.attempt}"
