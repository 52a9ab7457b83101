"""The states of a job, the words for them, and the one table of how events lead through them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pytest

from jobbus.job import (
    ALIASES,
    DEAD,
    TERMINAL,
    TRANSITIONS,
    UNFINISHED,
    EventType,
    Job,
    JobState,
    allowed,
    next_states,
)

S, E = JobState, EventType
WAITING: Final = {S.CREATED, S.SCHEDULED, S.BLOCKED, S.QUEUED, S.RETRYING}
EVERYTHING: Final = [(state, event, to) for state in S for event in E for to in S]


def _to(targets: set[JobState], sources: set[JobState]) -> set[tuple[JobState, JobState]]:
    return {(source, target) for source in sources for target in targets}


LEGAL: Final[dict[EventType, set[tuple[JobState, JobState]]]] = {
    E.CREATED: set(),
    E.RELEASED_TO_QUEUE: {
        (S.CREATED, S.QUEUED), (S.SCHEDULED, S.QUEUED), (S.BLOCKED, S.QUEUED),
        (S.RETRYING, S.QUEUED), (S.CREATED, S.SCHEDULED), (S.BLOCKED, S.SCHEDULED),
    },
    E.STARTED: {(S.QUEUED, S.RUNNING), (S.CREATED, S.RUNNING)},
    E.COMPLETED: {(S.RUNNING, S.COMPLETED)},
    E.RETRY_SCHEDULED: {(S.RUNNING, S.RETRYING)},
    E.SNOOZED: {(S.RUNNING, S.RETRYING)},
    E.RELEASED: {(S.RUNNING, S.QUEUED)},
    E.CRASHED: {(S.RUNNING, S.QUEUED), (S.RUNNING, S.RETRYING)},
    E.FAILED: _to({S.FAILED}, WAITING | {S.RUNNING}),
    E.TIMED_OUT: {(S.RUNNING, S.TIMED_OUT)},
    E.CANCELLED: _to({S.CANCELLED}, WAITING | {S.RUNNING}),
    E.EXPIRED: _to({S.EXPIRED}, WAITING | {S.RUNNING}),
    E.CANCEL_REQUESTED: {(S.RUNNING, S.RUNNING)},
    E.FENCED: set(),
    E.REDRIVEN: _to({S.QUEUED}, {S.FAILED, S.CANCELLED, S.TIMED_OUT, S.EXPIRED}),
    E.MOVED: {(state, state) for state in S if state is not S.RUNNING}
    | {(S.QUEUED, S.CREATED), (S.BLOCKED, S.SCHEDULED)}
    | _to({S.BLOCKED, S.QUEUED}, WAITING),
}  # fmt: skip
"""Written out a second time, so that no change of the table goes unnoticed."""


def test_the_table_allows_what_is_legal_and_nothing_else() -> None:
    assert {(event, state, to) for state, event, to in EVERYTHING if allowed(state, event, to)} == {
        (event, state, to) for event, moves in LEGAL.items() for state, to in moves
    }


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("event", list(E))
def test_next_states_and_allowed_agree(state: JobState, event: EventType) -> None:
    assert next_states(state, event) == {to for to in S if allowed(state, event, to)}


def test_only_a_redrive_leads_out_of_a_terminal_state_and_nothing_out_of_completed() -> None:
    leaving = {
        (state, event)
        for state, event, to in EVERYTHING
        if state is not to and allowed(state, event, to)
    }
    assert {event for state, event in leaving if state in TERMINAL} == {E.REDRIVEN}
    assert not {event for state, event in leaving if state is S.COMPLETED}


def test_every_state_can_be_reached_from_those_that_jobs_begin_in_and_every_job_can_end() -> None:
    reached = {S.CREATED, S.BLOCKED}
    while True:
        further = {to for state, _, to in EVERYTHING if state in reached and _leads(state, to)}
        if further <= reached:
            break
        reached |= further
    assert reached == set(S)
    for state in UNFINISHED:
        assert allowed(state, E.CANCELLED, S.CANCELLED)
        assert allowed(state, E.FAILED, S.FAILED)


def _leads(state: JobState, to: JobState) -> bool:
    return any(allowed(state, event, to) for event in E)


def test_a_job_runs_only_from_the_queue_or_straight_from_its_record() -> None:
    assert TRANSITIONS[E.STARTED] == {S.RUNNING: frozenset({S.CREATED, S.QUEUED})}


def test_terminal_dead_and_unfinished_divide_the_states() -> None:
    assert set(S) == TERMINAL | UNFINISHED
    assert not TERMINAL & UNFINISHED
    assert DEAD < TERMINAL
    assert {state for state in S if state.terminal} == TERMINAL


WORDS: Final = {
    "pending": {S.CREATED, S.SCHEDULED, S.BLOCKED, S.QUEUED},
    "waiting": {S.QUEUED},
    "delayed": {S.SCHEDULED, S.RETRYING},
    "active": {S.RUNNING},
    "processing": {S.RUNNING},
    "in_flight": {S.RUNNING},
    "dead": {S.FAILED, S.TIMED_OUT},
    "succeeded": {S.COMPLETED},
    "done": {S.COMPLETED},
    "timeout": {S.TIMED_OUT},
    "unfinished": set(UNFINISHED),
    "finished": set(TERMINAL),
}


@pytest.mark.parametrize("word", [*WORDS, *S])
def test_every_word_names_its_states_however_it_is_written(word: str) -> None:
    expected = WORDS.get(word, {S(word)} if word in set(S) else set())
    spellings = (word, word.upper(), f"  {word.title()} ", word.replace("_", "-"))
    for spelling in spellings:
        assert set(S.parse(spelling)) == expected, spelling


def test_the_words_of_other_systems_are_all_listed_and_shadow_none_of_ours() -> None:
    assert set(ALIASES) == set(WORDS)
    assert not set(ALIASES) & set(S)


@pytest.mark.parametrize("word", ["", "nonsense", "running;", "completed failed"])
def test_an_unknown_word_is_answered_with_those_that_are_understood(word: str) -> None:
    with pytest.raises(ValueError, match="unknown job state") as raised:
        S.parse(word)
    for known in ("running", "pending", "timed_out"):
        assert known in str(raised.value)


def job(**facts: object) -> Job:
    now = datetime.now(UTC)
    known = {
        "id": "x", "job_type": "work", "queue": "default", "state": S.RUNNING, "priority": 5,
        "payload": b"{}", "attempt": 1, "failures": 0, "crashes": 0, "snoozes": 0,
        "max_attempts": 3, "generation": 1, "created_at": now, "run_at": now,
    }  # fmt: skip
    return Job(**{**known, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, True),
        ({"failures": 1}, True),
        ({"failures": 2}, False),
        ({"max_attempts": 1}, False),
        ({"state": S.QUEUED}, True),
        ({"state": S.FAILED}, False),
        ({"state": S.COMPLETED}, False),
    ],
)
def test_a_job_knows_whether_a_failure_now_would_be_its_last(
    facts: dict[str, object], expected: bool
) -> None:
    assert job(**facts).can_retry() is expected
