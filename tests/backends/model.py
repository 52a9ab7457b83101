"""What may happen to a job, as a model small enough to be believed: the oracle is TRANSITIONS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from jobbus.job import EventType, Job, JobState, next_states
from jobbus.message import CountsAs, Delivery, Message, OnFailure

E = EventType
NONE: Final[frozenset[EventType]] = frozenset()
TIME: Final = frozenset({E.RELEASED_TO_QUEUE, E.EXPIRED, E.CRASHED, E.FAILED, E.CANCELLED})
"""What falls due by itself, and what follows from it."""
CLAIM: Final = TIME | {E.STARTED}
"""What a receive may do to the jobs that it hands out."""
CASCADE: Final = frozenset({E.RELEASED_TO_QUEUE, E.FAILED, E.CANCELLED})
"""What the end of one job means to those that wait for it."""
SETTLE: Final = frozenset(
    {
        E.COMPLETED,
        E.RETRY_SCHEDULED,
        E.SNOOZED,
        E.RELEASED,
        E.CRASHED,
        E.FAILED,
        E.TIMED_OUT,
        E.CANCELLED,
    }
)
WAITS_FOR_TIME: Final = frozenset({JobState.SCHEDULED, JobState.RETRYING})


@lru_cache(maxsize=1024)
def reachable(start: JobState, events: frozenset[EventType]) -> frozenset[JobState]:
    """The states to which any sequence of these events may lead."""
    found = {start}
    frontier = [start]
    while frontier:
        state = frontier.pop()
        for event in events:
            new = next_states(state, event) - found
            found |= new
            frontier += new
    return frozenset(found)


@dataclass
class Known:
    """A job as it was last seen, and who holds it."""

    message: Message
    job: Job
    holder: Delivery | None = None
    lease_at_least: datetime | None = None
    lease_at_most: datetime | None = None

    @property
    def held(self) -> bool:
        return self.job.state is JobState.RUNNING

    def surely_held(self, now: datetime) -> bool:
        """Whether the lease has certainly not run out."""
        return self.held and self.lease_at_least is not None and now < self.lease_at_least

    def surely_lapsed(self, now: datetime) -> bool:
        return self.held and self.lease_at_most is not None and now > self.lease_at_most

    def late(self, now: datetime) -> bool:
        """Whether its start deadline may have passed."""
        return self.message.expires_at is not None and self.message.expires_at <= now

    def surely_ready(self, now: datetime) -> bool:
        """Whether a receive now must find it, if there is room and nobody paused the queue."""
        if self.late(now):
            return False
        due = self.job.state in WAITS_FOR_TIME and self.job.run_at < now
        return self.job.state is JobState.QUEUED or due


def rank(known: Known) -> tuple[int, datetime, str]:
    """The order in which jobs are handed out."""
    return (-known.message.priority, known.job.run_at, known.job.id)


@dataclass
class Model:
    """All that the machine knows."""

    jobs: dict[str, Known] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    """Jobs that have ever been seen in a terminal state."""
    paused: set[str] = field(default_factory=set)

    def holder_of_key(self, message: Message) -> str | None:
        """The unfinished job of this type that holds the message's unique key."""
        for known in self.jobs.values():
            same = known.message.unique_key == message.unique_key is not None
            if same and not known.job.state.terminal:
                return known.job.id
        return None

    def is_current(self, delivery: Delivery) -> bool:
        """Whether the delivery is the one under which its job runs."""
        known = self.jobs.get(delivery.job_id)
        return known is not None and known.held and known.job.attempt == delivery.attempt

    def see(
        self,
        found: Mapping[str, Job],
        now: datetime,
        *,
        direct: Mapping[str, frozenset[EventType]],
        others: frozenset[EventType],
    ) -> list[str]:
        """Compare what is there now with what was; return the ids of the jobs that changed.

        ``direct`` are the events allowed to the jobs that the step was about; ``others``, to all
        that wait for something.
        """
        assert found.keys() == self.jobs.keys(), "jobs appeared or vanished by themselves"
        changed = []
        for job_id, job in found.items():
            known = self.jobs[job_id]
            events = direct.get(job_id, others)
            if events is CASCADE and known.job.state is not JobState.BLOCKED:
                events = NONE
            self._check(known, job, events, now, asked=job_id in direct)
            if known.job.state is JobState.BLOCKED:
                self.check_parents(known.message, job, found)
            if job != known.job:
                changed.append(job_id)
            known.job = job
            if job.state.terminal:
                self.ended.add(job_id)
        self._check_edges()
        return changed

    def _check(
        self, known: Known, job: Job, events: frozenset[EventType], now: datetime, *, asked: bool
    ) -> None:
        before = known.job
        assert job.state in reachable(before.state, events), (
            f"{before.state} -> {job.state} is no way for {sorted(events)} to lead: {job}"
        )
        assert job.attempt >= before.attempt, f"an attempt fell: {before} -> {job}"
        started = E.STARTED in events
        assert job.attempt <= before.attempt + started, f"an attempt rose without a start: {job}"
        if before.state.terminal and E.REDRIVEN not in events:
            assert job == before, f"an ended job changed: {before} -> {job}"
        if E.REDRIVEN not in events:
            assert job.generation == before.generation
            assert job.failures >= before.failures
            assert job.crashes >= before.crashes
            assert job.snoozes >= before.snoozes
        if known.surely_held(now) and not asked:
            assert (job.state, job.attempt) == (before.state, before.attempt), (
                f"a held job was taken away: {before} -> {job}"
            )

    def check_parents(self, child: Message, job: Job, found: Mapping[str, Job]) -> None:
        """A job that may run, or wait for its time, has the parents that it asked for."""
        if job.state.terminal or job.state is JobState.BLOCKED:
            return
        for edge in child.depends_on:
            parent = found.get(edge.job_id)
            if parent is not None and edge.on_failure is not OnFailure.RUN:
                assert parent.state is JobState.COMPLETED, f"{job} goes on after {parent}"

    def _check_edges(self) -> None:
        for known in self.jobs.values():
            parents = [edge.job_id for edge in known.message.depends_on]
            if known.job.state is JobState.BLOCKED and known.message.group is None:
                states = [self.jobs[one].job.state for one in parents if one in self.jobs]
                assert not all(one.terminal for one in states), f"blocked for nothing: {known.job}"
            elif known.job.attempt and known.job.generation == 1:
                # Who redrives a job wants it to run, whatever it once waited for.
                assert set(parents) <= self.ended, f"ran before its parents ended: {known.job}"


def after_abandon(job: Job, counts_as: CountsAs, max_crashes: int, *, delayed: bool) -> JobState:
    """Where an abandoned job stands."""
    if job.cancel_requested:
        return JobState.CANCELLED
    if counts_as is CountsAs.CRASH:
        if job.crashes + 1 >= max_crashes:
            return JobState.FAILED
        return JobState.RETRYING if delayed else JobState.QUEUED
    return JobState.QUEUED if counts_as is CountsAs.RELEASE else JobState.RETRYING


def tally(jobs: Iterable[Job]) -> dict[tuple[str, JobState], int]:
    """Jobs by queue and state."""
    counted: dict[tuple[str, JobState], int] = {}
    for job in jobs:
        key = (job.queue, job.state)
        counted[key] = counted.get(key, 0) + 1
    return counted
