"""What the machine stands on: its stage, its steps, and the comparison that ends each."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from jobbus.job import EventType, Job, JobState
from jobbus.message import (
    NO_DELAY,
    Completion,
    Delivery,
)
from jobbus.store import JobFilter
from jobbus.testing.histories import check_history
from jobbus.testing.wrapping import LedgerQueue
from tests.backends.model import (
    NONE,
    Known,
    Model,
    tally,
)

T = TypeVar("T")
E = EventType
QUEUES = ("default", "video")
PICK = st.integers(min_value=0, max_value=10_000)


@dataclass(frozen=True)
class Pace:
    """The times that a machine deals in: long ones where time is virtual, tiny ones elsewhere."""

    delays: Sequence[timedelta]
    leases: Sequence[timedelta]
    deadline: timedelta
    steps: Sequence[timedelta]
    slack: timedelta
    """How far this process's idea of the queue's time may be off."""


class Stage(Protocol):
    """Where a machine plays."""

    pace: Pace

    def run(self, work: Coroutine[Any, Any, T]) -> T: ...

    def fresh(self) -> LedgerQueue:
        """An open queue without jobs."""
        ...

    def leave(self, queue: LedgerQueue) -> None: ...

    def now(self) -> datetime: ...

    def pass_time(self, delta: timedelta) -> None: ...


@dataclass
class Step:
    """What one step is about, for the comparison that ends it."""

    direct: dict[str, frozenset[EventType]] = field(default_factory=dict)
    others: frozenset[EventType] = NONE


class MachineBase(RuleBasedStateMachine):
    """One queue, and the model beside it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.queue = stage.fresh()
        self.model = Model()
        self.sound = True
        self.compared = 0

    # steps

    @contextmanager
    def step(self, others: frozenset[EventType] = NONE) -> Iterator[Step]:
        self.sound = False
        step = Step(others=others)
        yield step
        self.compare(step)

    @invariant()
    def after_every_rule(self) -> None:
        """Reached only by rules that found nothing wrong."""
        self.sound = True

    def compare(self, step: Step) -> None:
        self.stage.run(self._compare(step, self.stage.now()))

    async def _compare(self, step: Step, now: datetime) -> None:
        page = await self.queue.find(JobFilter(), limit=500)
        found = {job.id: job for job in page.jobs}
        for job_id in self.model.see(found, now, direct=step.direct, others=step.others):
            check_history(await self.queue.history(job_id), found[job_id])
        counts = await self.queue.counts()
        assert {key: number for key, number in counts.items() if number} == tally(found.values())
        self.compared += 1
        name = QUEUES[self.compared % len(QUEUES)]
        depth = await self.queue.get_queue_depth(name)
        in_state = {state: counts.get((name, state), 0) for state in JobState}
        waiting = [JobState.QUEUED, JobState.SCHEDULED, JobState.RETRYING]
        assert depth.leased == in_state[JobState.RUNNING]
        assert depth.ready + (depth.delayed or 0) == sum(in_state[one] for one in waiting)
        assert depth.dead == in_state[JobState.FAILED] + in_state[JobState.TIMED_OUT]

    def job(self, pick: int) -> Known:
        jobs = list(self.model.jobs.values())
        return jobs[pick % len(jobs)]

    def delivery(self, pick: int) -> Delivery:
        """Two times in three one that is held, if there is any; else one from all time."""
        ever = self.model.deliveries
        held = [one for one in ever if self.model.is_current(one)]
        chosen = held if held and pick % 3 else ever
        return chosen[pick % len(chosen)]

    # the end

    def teardown(self) -> None:
        try:
            if self.sound:
                self.stage.run(self._finish_everything())
        finally:
            self.stage.leave(self.queue)

    async def _finish_everything(self) -> None:
        """With faults healed and workers at hand, every job ends."""
        for name in QUEUES:
            await self.queue.resume(name)
        current = [one for one in self.model.deliveries if self.model.is_current(one)]
        assert not await self.queue.complete([Completion(delivery=one) for one in current])
        for _ in range(4 * len(self.model.jobs) + 4):
            jobs = (await self.queue.find(JobFilter(), limit=500)).jobs
            left = [job for job in jobs if not job.state.terminal]
            if not left:
                return
            await self.queue.recover()
            await self.queue.expedite([job.id for job in left])
            await self._work(left)
        raise AssertionError(f"these jobs never end: {left}")

    async def _work(self, left: Sequence[Job]) -> None:
        lease = self.stage.pace.leases[-1]
        for name in QUEUES:
            held = await self.queue.receive(name, limit=len(left), wait=NO_DELAY, lease=lease)
            assert not await self.queue.complete([Completion(delivery=one) for one in held])
