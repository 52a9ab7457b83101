"""The job as people see it: its states, its events, and how one leads to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final


class JobState(StrEnum):
    """Where a job stands. The last five are terminal: only a redrive leaves them."""

    CREATED = "created"
    """Recorded, not yet handed to the broker."""
    SCHEDULED = "scheduled"
    """Due later."""
    BLOCKED = "blocked"
    """Waits for the jobs that it depends on, or for its group's turn."""
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    """Waits out a back-off."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    """Its start deadline passed before a worker came to it."""

    @property
    def terminal(self) -> bool:
        return self in TERMINAL

    @classmethod
    def parse(cls, word: str) -> tuple[JobState, ...]:
        """The states that ``word`` names, in this vocabulary or a source system's.

        Raises :class:`ValueError` listing the words that are understood.
        """
        key = word.strip().casefold().replace("-", "_")
        if key in ALIASES:
            return ALIASES[key]
        try:
            return (cls(key),)
        except ValueError:
            known = ", ".join(sorted([*cls, *ALIASES]))
            raise ValueError(f"unknown job state {word!r}; understood are {known}") from None


TERMINAL: Final = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT, JobState.EXPIRED}
)
DEAD: Final = frozenset({JobState.FAILED, JobState.TIMED_OUT})
"""The dead letters: ended without success, and worth a redrive."""
UNFINISHED: Final = frozenset(JobState) - TERMINAL

ALIASES: Final[Mapping[str, tuple[JobState, ...]]] = {
    "pending": (JobState.CREATED, JobState.SCHEDULED, JobState.BLOCKED, JobState.QUEUED),
    "waiting": (JobState.QUEUED,),
    "delayed": (JobState.SCHEDULED, JobState.RETRYING),
    "active": (JobState.RUNNING,),
    "processing": (JobState.RUNNING,),
    "in_flight": (JobState.RUNNING,),
    "dead": tuple(sorted(DEAD)),
    "succeeded": (JobState.COMPLETED,),
    "done": (JobState.COMPLETED,),
    "timeout": (JobState.TIMED_OUT,),
    "unfinished": tuple(sorted(UNFINISHED)),
    "finished": tuple(sorted(TERMINAL)),
}
"""The source systems' words, understood at the edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an attempt failed, in a form that survives storage."""

    kind: str
    """The exception's class name, or a reason of jobbus's own such as ``poison_crash``."""
    message: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far along a running job says it is."""

    percent: float
    """0 to 100."""
    stage: str = ""
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything the store knows of one job at one moment."""

    id: str
    job_type: str
    queue: str
    state: JobState
    priority: int
    payload: bytes
    attempt: int
    """Hand-outs so far, over all generations. Only grows."""
    failures: int
    crashes: int
    snoozes: int
    max_attempts: int
    generation: int
    """1, and one more for each redrive."""
    created_at: datetime
    run_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    timeout: timedelta | None = None
    worker: str | None = None
    progress: Progress | None = None
    result: bytes | None = None
    problem: Problem | None = None
    cancel_requested: bool = False
    parent_id: str | None = None
    unique_key: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def can_retry(self) -> bool:
        """Whether a failure now would lead to another attempt."""
        return not self.state.terminal and self.failures + 1 < self.max_attempts


class EventType(StrEnum):
    """What can happen to a job."""

    CREATED = "created"
    RELEASED_TO_QUEUE = "released_to_queue"
    """Due, unblocked or relayed: now it may be received."""
    STARTED = "started"
    COMPLETED = "completed"
    RETRY_SCHEDULED = "retry_scheduled"
    SNOOZED = "snoozed"
    RELEASED = "released"
    """Handed back by its worker; burns nothing."""
    CRASHED = "crashed"
    """Its worker died, or stopped renewing the lease; somebody took the job over."""
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    CANCEL_REQUESTED = "cancel_requested"
    FENCED = "fenced"
    """A worker that had lost its lease tried to settle the job, and was refused."""
    REDRIVEN = "redriven"
    MOVED = "moved"
    """Came from another backend, as the reason says; what was waiting waits on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """A fact about one job: the only way to change it, and its history."""

    job_id: str
    type: EventType
    at: datetime
    to_state: JobState
    from_state: JobState | None = None
    attempt: int = 0
    worker: str | None = None
    reason: str = ""
    problem: Problem | None = None
    job_type: str = ""
    queue: str = ""


_S = JobState
_WAITING = frozenset({_S.CREATED, _S.SCHEDULED, _S.BLOCKED, _S.QUEUED, _S.RETRYING})
_RUNNING = frozenset({_S.RUNNING})

TRANSITIONS: Final[Mapping[EventType, Mapping[JobState, frozenset[JobState]]]] = {
    EventType.RELEASED_TO_QUEUE: {
        _S.QUEUED: frozenset({_S.CREATED, _S.SCHEDULED, _S.BLOCKED, _S.RETRYING}),
        _S.SCHEDULED: frozenset({_S.CREATED, _S.BLOCKED}),
    },
    EventType.STARTED: {_S.RUNNING: frozenset({_S.CREATED, _S.QUEUED})},
    EventType.COMPLETED: {_S.COMPLETED: _RUNNING},
    EventType.RETRY_SCHEDULED: {_S.RETRYING: _RUNNING},
    EventType.SNOOZED: {_S.RETRYING: _RUNNING},
    EventType.RELEASED: {_S.QUEUED: _RUNNING},
    EventType.CRASHED: {_S.QUEUED: _RUNNING, _S.RETRYING: _RUNNING},
    EventType.FAILED: {_S.FAILED: _WAITING | _RUNNING},
    EventType.TIMED_OUT: {_S.TIMED_OUT: _RUNNING},
    EventType.CANCELLED: {_S.CANCELLED: _WAITING | _RUNNING},
    EventType.EXPIRED: {_S.EXPIRED: _WAITING | _RUNNING},
    EventType.CANCEL_REQUESTED: {_S.RUNNING: _RUNNING},
    EventType.REDRIVEN: {_S.QUEUED: TERMINAL - {_S.COMPLETED}},
    EventType.MOVED: {
        _S.CREATED: frozenset({_S.CREATED, _S.QUEUED}),
        _S.SCHEDULED: frozenset({_S.SCHEDULED, _S.BLOCKED}),
        _S.QUEUED: _WAITING,
        _S.BLOCKED: _WAITING,
        **{state: frozenset({state}) for state in (_S.RETRYING, *sorted(TERMINAL))},
    },
}
"""The one transition table: event -> state it leads to -> states it applies in.

``FENCED`` is absent: it changes nothing. The oracle that every store is tested against.
"""


def allowed(state: JobState, event: EventType, to: JobState) -> bool:
    """Whether ``event`` may lead from ``state`` to ``to``."""
    return state in TRANSITIONS.get(event, {}).get(to, frozenset())


def next_states(state: JobState, event: EventType) -> frozenset[JobState]:
    """Where ``event`` can lead from ``state``; empty when it does not apply."""
    targets = TRANSITIONS.get(event, {})
    return frozenset(to for to, sources in targets.items() if state in sources)
