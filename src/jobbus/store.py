"""The state seam: what is remembered of jobs, and the verbs by which people steer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jobbus.job import TERMINAL, Job, JobEvent, JobState, Progress
from jobbus.message import Delivery, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs; an empty filter is all of them. Conditions are joined by *and*."""

    ids: tuple[str, ...] = ()
    queue: str | None = None
    job_type: str | None = None
    """An exact name, or a prefix ending in ``*``: ``email.*``."""
    states: frozenset[JobState] = field(default_factory=frozenset)
    parent_id: str | None = None
    tag: str | None = None
    group: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first, and where the next page starts; None at the end."""

    jobs: Sequence[Job]
    cursor: str | None


class CancelOutcome(StrEnum):
    """What :meth:`JobStore.cancel` could do."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    """It runs; its worker has been asked to stop it."""
    FINISHED = "finished"
    """Too late: it had ended."""
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTypeRecord:
    """A job type as a worker announced it, for producers that do not import its handler."""

    name: str
    queue: str
    max_attempts: int = 3
    max_crashes: int = 3
    priority: int = 5
    payload_schema: Mapping[str, Any] = field(default_factory=dict)
    """JSON Schema of the payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """A queue as an operator sees it."""

    name: str
    paused: bool
    reason: str = ""
    counts: Mapping[JobState, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker process that claims, or claimed, from this store."""

    name: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    running: int
    """Jobs in its hands, prefetched ones included."""
    alive: bool
    """Seen within its lease, and not known to be dead."""


@runtime_checkable
class JobStore(Protocol):
    """Remembers jobs: state, progress, result, history, dependencies, queues' settings.

    Times are the store's own clock's, so that workers' clocks do not matter. Every change is a
    compare-and-set on what was read.
    """

    async def get(self, job_id: str) -> Job | None:
        """One job, or None. An id that is not a UUID is no job."""
        ...

    async def find(self, where: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Newest first; ``cursor`` is the last page's. Raises ValueError for a cursor not ours."""
        ...

    async def counts(self, queue: str | None = None) -> Mapping[tuple[str, JobState], int]:
        """Jobs by queue and state."""
        ...

    async def count(self, where: JobFilter, *, cap: int = 10_000) -> int:
        """How many match, counting no further than ``cap``."""
        ...

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        """All that happened to the job, oldest first."""
        ...

    async def progress_history(self, job_id: str) -> Sequence[Progress]: ...

    async def record_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """Note progress of running jobs; reports under a lost lease are dropped."""
        ...

    async def cancel_requested(self, held: Sequence[Delivery]) -> frozenset[str]:
        """Ids of those of these jobs that somebody has asked to stop."""
        ...

    async def cancel(
        self, job_ids: Sequence[str], *, reason: str = ""
    ) -> Mapping[str, CancelOutcome]: ...

    async def redrive(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Start a new generation of ended jobs that did not complete; return those it could.

        They may run at once: what they depended on, and their start deadline, hold no more.
        """
        ...

    async def expedite(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Make scheduled and retrying jobs due now; return those it could."""
        ...

    async def discard(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Delete ended jobs with all their traces; return those it could."""
        ...

    async def prune(
        self,
        *,
        finished_before: datetime,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        """Delete up to ``limit`` jobs that ended so before a moment; return how many.

        Jobs whose end others wait to hear of stay.
        """
        ...

    async def trim(
        self,
        *,
        keep_count: int | None = None,
        keep_bytes: int | None = None,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        """Delete up to ``limit`` jobs that ended so, the oldest beyond what each queue keeps.

        A queue keeps those that ended last: ``keep_count`` of them, and no more than take
        ``keep_bytes`` together; None is no limit. What is counted of a job is its payload, result,
        problem, headers and metadata, as they are stored. Jobs whose end others wait to hear of
        stay. A store that would have to read much for it may keep more for a while, and says by
        how much. Returns how many were deleted; 0 when there is nothing to do by now.
        """
        ...

    async def queues(self) -> Sequence[QueueStatus]: ...

    async def pause(self, queue: str, *, reason: str = "") -> None:
        """Hand nothing of this queue out until :meth:`resume`. Running jobs go on."""
        ...

    async def resume(self, queue: str) -> None: ...

    async def purge(self, queue: str) -> int:
        """Delete every job of the queue that has not started; return how many."""
        ...

    async def announce(self, job_types: Sequence[JobTypeRecord]) -> None:
        """Publish what this worker can run."""
        ...

    async def job_types(self) -> Sequence[JobTypeRecord]: ...

    async def workers(self) -> Sequence[WorkerRecord]: ...

    async def recover(self, *, expired_for: timedelta = timedelta(0)) -> int:
        """Take jobs back from leases that ran out, and do what fell due; return jobs taken back.

        Promotes due jobs, releases dependents that a crash left waiting, counts crashes, and sends
        those over their limit to the dead letters. Workers call it all the time; calling it by
        hand is harmless.
        """
        ...

    async def suspect(self, delivery: Delivery) -> bool:
        """Note that this job, under which a process died before, is about to run.

        If its worker dies now, the crash is the job's. False when the lease was lost.
        """
        ...

    async def watch(self, *, lasting: timedelta) -> None:
        """Ask all processes to write the event log for ``lasting`` from now."""
        ...

    async def events(self, *, after: int) -> tuple[Sequence[JobEvent], int]:
        """Events logged behind position ``after`` (0: from now), and the position reached.

        A page at a time. The log is live news, bounded and best effort; the history is the record.
        """
        ...


class NamesJob(Protocol):
    """Whatever says which attempt of which job it stands for."""

    @property
    def job_id(self) -> str: ...

    @property
    def attempts(self) -> int:
        """How many the job has had before."""
        ...


class Ticket(NamedTuple):
    """Names a job, and travels through a broker in its place; the payload stays in the ledger."""

    job_id: str
    attempts: int
    """Those before the one that it is for."""
    job_type: str = ""
    priority: int = Priority.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Jobs that a relay took from the ledger, to send to a broker."""

    tickets: Sequence[Ticket] = ()
    """Best first."""
    claim: int | None = None
    """Names the batch; None when it is empty."""
    outstanding: int = 0
    """Of batches handed over before, jobs that no worker has started."""
    spent: frozenset[int] = frozenset()
    """Batches handed over before of which nothing is outstanding."""
    paused: bool = False
    """The queue hands out nothing."""


@runtime_checkable
class Outbox(Protocol):
    """The part of a store that puts a broker between its jobs and their workers.

    After :meth:`await_relay`, a job that may run is ``created``, or ``queued`` when it had waited
    for something, until it is handed over; then it is ``queued``, and runs once its message
    reaches a worker. What a broker loses may be handed over again when its time is up.
    """

    def await_relay(self) -> None:
        """From now on, jobs accepted here wait for a relay."""
        ...

    def only_relay(self) -> None:
        """This process hands jobs over and starts none: it does not count as a worker.

        To be said before the first hand-over.
        """
        ...

    async def waiting_queues(self) -> Sequence[str]:
        """Names of the queues with jobs that may be handed over."""
        ...

    async def hand_over(
        self, queue: str, *, limit: int, within: timedelta, beside: Sequence[int] = ()
    ) -> HandOver:
        """Take the best jobs that may run, so many that ``limit`` are outstanding.

        What was handed over in the batches ``beside`` and is outstanding counts. Unless the relay
        says within ``within`` that they were sent, they may be handed over again.
        """
        ...

    async def handed_over(self, claim: int, *, within: timedelta) -> None:
        """The batch was sent: what has not started ``within`` that time is lost at the broker."""
        ...

    async def put_back(self, claim: int, job_ids: Sequence[str]) -> None:
        """These of the batch were not sent."""
        ...

    async def start(
        self, tickets: Sequence[NamesJob], *, queue: str, lease: timedelta
    ) -> Sequence[Delivery]:
        """Of the jobs whose tickets came from the broker, start those that may; best first.

        Each receipt has, as ``ticket``, the one that started the job, the last of equal ones.
        Refused are jobs that run, have ended, are paused, are unknown or are not due, and tickets
        of an earlier attempt. ``queue`` names where they were received.
        """
        ...

    async def look_after(self) -> None:
        """Do what fell due, if it is time to look: delays, deadlines, leases."""
        ...

    @property
    def news(self) -> int:
        """Rises when jobs may have become ready."""
        ...

    async def await_news(self, seen: int, longest: timedelta) -> None:
        """Until there is news since ``seen``, or it is time to look; at most ``longest``."""
        ...
