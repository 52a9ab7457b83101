"""The seam by which jobs move from one store to another: their whole record, and the verbs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from graphlib import TopologicalSorter
from typing import Any, Final, Protocol, runtime_checkable

from jobbus.job import DEAD, UNFINISHED, EventType, Job, JobState, Problem, Progress
from jobbus.message import DeadLetter, Delivery, Dependency, Message, OnFailure
from jobbus.store import JobFilter

MOVABLE: Final = (UNFINISHED - {JobState.RUNNING}) | DEAD
"""What moves unless somebody asks for other states: all that waits, and the dead letters."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An entry of a job's history as a store keeps it: what its record does not tell."""

    event: EventType
    at: datetime
    to_state: JobState
    from_state: JobState | None = None
    attempt: int = 0
    worker: str | None = None
    started_at: datetime | None = None
    """Of the attempt that ended so."""
    reason: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """What a job waits for, or waited for."""

    depends_on: str
    on_failure: OnFailure
    outcome: JobState | None = None
    """How the other one ended; None while it has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """Everything that a store keeps of one job."""

    job: Job
    initial_state: JobState
    max_crashes: int
    edges: tuple[Edge, ...] = ()
    history: tuple[Told, ...] = ()
    progress: tuple[Progress, ...] = ()

    def message(self) -> Message:
        """The job as it could be enqueued again; a job that has ended, free of all conditions."""
        job = self.job
        waits = not job.state.terminal
        return Message(
            job_id=job.id,
            job_type=job.job_type,
            payload=job.payload,
            queue=job.queue,
            headers=job.headers,
            priority=job.priority,
            group=job.group if waits else None,
            run_at=job.run_at if waits and job.state is not JobState.QUEUED else None,
            expires_at=job.expires_at if job.generation == 1 else None,
            max_attempts=job.max_attempts,
            max_crashes=self.max_crashes,
            timeout=job.timeout,
            unique_key=job.unique_key if waits else None,
            depends_on=tuple(
                Dependency(edge.depends_on, edge.on_failure)
                for edge in self.edges
                if waits and edge.outcome is None
            ),
            parent_id=job.parent_id,
            tags=job.tags,
            metadata=job.metadata,
            prior_attempts=job.attempt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOut:
    """A page of jobs that left their store, and of those that could not."""

    records: Sequence[JobRecord] = ()
    staying: Mapping[str, str] = field(default_factory=dict)
    """Why, by job id."""
    cursor: str | None = None
    """Where the next page starts; None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A line of the journal of moves: a job that was taken out."""

    record: JobRecord
    to: str
    """Where it went, without secrets."""
    arrived: bool


@runtime_checkable
class Movable(Protocol):
    """The part of a store from which and into which jobs are moved.

    A job is in one store or the other, or in the journal of the one that it left: what was taken
    out and has not arrived can be delivered again, however often the mover dies.
    """

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None = None
    ) -> TakenOut:
        """Put the next jobs, oldest first, into the journal, from where no worker gets them.

        ``where`` names states; running jobs never leave. Those stay, too, that wait for a job that
        stays. ``after`` is the page before's cursor.
        """
        ...

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        """Keep these jobs, with all that is known of them; a known id is left as it is.

        Returns why, by job id, some were not taken: a unique key that another job holds, something
        to wait for that is not here. ``origin`` is told in their histories; None when they come
        back as if they had never left. Lines of this store's journal about them are removed.
        """
        ...

    async def departures(
        self, *, limit: int, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[Departure]:
        """The journal of moves, by job id, behind the id ``after``; of these jobs only."""
        ...

    async def note_arrival(self, job_ids: Sequence[str]) -> None:
        """The other store has these jobs. Their lines stay, as what a way back goes by."""
        ...

    async def forget_departures(self, job_ids: Sequence[str]) -> None:
        """Remove these lines of the journal."""
        ...


@runtime_checkable
class Drainable(Protocol):
    """The part of a broker without a ledger that gives out what no worker receives.

    What is handed out here is settled by the verbs that workers use: ``complete`` removes it for
    good, once it is elsewhere; ``abandon`` puts it back where it was, whatever it counts as. What
    is left alone stays, or goes back when its lease is over.
    """

    @property
    def gives_delayed(self) -> bool:
        """Whether :meth:`receive_delayed` finds what there is; else it raises Unsupported."""
        ...

    @property
    def takes_dead(self) -> bool:
        """Whether :meth:`enqueue_dead` works; else it raises Unsupported."""
        ...

    async def receive_delayed(self, queue: str, *, limit: int) -> Sequence[Delivery]:
        """Hand out up to ``limit`` messages of this queue that are not due; empty at the end.

        ``run_at`` says when each is; ``attempt`` counts the hand-outs before. What was handed out
        and not settled does not come again.
        """
        ...

    async def receive_dead(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[DeadLetter]:
        """Hand out up to ``limit`` dead letters of this queue, with what is known of their end.

        Returns as soon as there is one; empty after ``wait``, or sooner where the broker knows that
        there is none. Where several queues share their dead letters, those of others come as well.
        What cannot be read comes with an empty job id, and its body as the payload.
        """
        ...

    async def enqueue_dead(self, dead: Sequence[DeadLetter]) -> None:
        """Keep these among the dead letters of their queues, without a delivery here before.

        Returns once the broker has all of them; after an error it may have some.
        """
        ...


def in_order(records: Sequence[JobRecord]) -> list[JobRecord]:
    """The records, each behind those among them that it waits for."""
    known = {record.job.id: record for record in records}
    waits = {
        job_id: [edge.depends_on for edge in record.edges if edge.depends_on in known]
        for job_id, record in known.items()
    }
    return [known[job_id] for job_id in TopologicalSorter(waits).static_order()]


def record_text(record: JobRecord) -> str:
    """The record as JSON text, for journals. :func:`record_from` reads it."""
    job = record.job
    told: dict[str, Any] = {
        "version": _VERSION,
        "job": {
            name: _plain(getattr(job, name)) for name in Job.__dataclass_fields__ if name != "id"
        },
        "initial_state": record.initial_state,
        "max_crashes": record.max_crashes,
        "edges": [_fields(edge) for edge in record.edges],
        "history": [_fields(entry) for entry in record.history],
        "progress": [_fields(word) for word in record.progress],
    }
    return json.dumps(told, separators=(",", ":"))


def record_from(job_id: str, text: str) -> JobRecord:
    """What :func:`record_text` wrote. Raises ValueError for anything else."""
    told = json.loads(text)
    if not isinstance(told, dict) or told.get("version") != _VERSION:
        raise ValueError(f"the record of job {job_id} was written by another version of jobbus")
    return JobRecord(
        job=_job(job_id, told["job"]),
        initial_state=JobState(told["initial_state"]),
        max_crashes=told["max_crashes"],
        edges=tuple(_edge(one) for one in told["edges"]),
        history=tuple(_told(one) for one in told["history"]),
        progress=tuple(_progress(one) for one in told["progress"]),
    )


def _fields(value: Any) -> dict[str, Any]:
    return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Problem() | Progress():
            return _fields(value)
        case Mapping():
            return dict(value)
        case _:
            return value


def _job(job_id: str, told: dict[str, Any]) -> Job:
    moments = ("created_at", "run_at", "started_at", "finished_at", "expires_at")
    timeout, result, progress = told["timeout"], told["result"], told["progress"]
    return Job(
        **told
        | {name: _moment(told[name]) for name in moments}
        | {
            "id": job_id,
            "state": JobState(told["state"]),
            "payload": base64.b64decode(told["payload"]),
            "timeout": None if timeout is None else timedelta(seconds=timeout),
            "progress": None if progress is None else _progress(progress),
            "result": None if result is None else base64.b64decode(result),
            "problem": _problem(told["problem"]),
            "tags": tuple(told["tags"]),
        }
    )


def _told(told: dict[str, Any]) -> Told:
    origin = told["from_state"]
    return Told(
        **told
        | {
            "event": EventType(told["event"]),
            "at": datetime.fromisoformat(told["at"]),
            "to_state": JobState(told["to_state"]),
            "from_state": None if origin is None else JobState(origin),
            "started_at": _moment(told["started_at"]),
            "problem": _problem(told["problem"]),
        }
    )


def _edge(told: dict[str, Any]) -> Edge:
    outcome = told["outcome"]
    return Edge(
        depends_on=told["depends_on"],
        on_failure=OnFailure(told["on_failure"]),
        outcome=None if outcome is None else JobState(outcome),
    )


def _progress(told: dict[str, Any]) -> Progress:
    return Progress(**told | {"at": _moment(told["at"])})


def _problem(told: dict[str, Any] | None) -> Problem | None:
    return None if told is None else Problem(**told)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
