"""A machine that does anything to a queue in any order, and compares what comes of it."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from jobbus.job import EventType, JobState
from jobbus.message import (
    NO_DELAY,
    Abandonment,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    OnFailure,
)
from jobbus.store import CancelOutcome
from jobbus.testing.histories import check_history
from jobbus.testing.make import after, message, problem
from tests.backends.machine_base import MachineBase
from tests.backends.model import (
    CASCADE,
    CLAIM,
    NONE,
    SETTLE,
    TIME,
    WAITS_FOR_TIME,
    Known,
    after_abandon,
    rank,
)

E = EventType
PICK = st.integers(min_value=0, max_value=10_000)
HOW: list[JobState | CountsAs] = [
    JobState.COMPLETED,
    JobState.CANCELLED,
    JobState.FAILED,
    JobState.TIMED_OUT,
    *CountsAs,
]
"""How a worker may give a delivery back."""
STEERING = ["cancel", "redrive", "expedite", "discard", "resend", "pause or resume"]


class JobMachine(MachineBase):
    """Random verbs. Few rules with many choices: a run leaves some rules out altogether."""

    # producers

    @initialize()
    def something(self) -> None:
        for priority in (5, 8, 5):
            self.add(queue="default", priority=priority, delay=0, group=None, key=None, parent=None)

    @rule(
        queue=st.sampled_from(["default", "default", "video"]),
        priority=st.sampled_from([2, 5, 8]),
        delay=st.integers(0, 2),
        group=st.sampled_from([None, None, None, "g"]),
        key=st.sampled_from([None, None, None, "k"]),
        parent=st.none() | st.tuples(PICK, st.sampled_from(list(OnFailure))),
    )
    def add(
        self,
        queue: str,
        priority: int,
        delay: int,
        group: str | None,
        key: str | None,
        parent: tuple[int, OnFailure] | None,
    ) -> None:
        edges = after(self.job(parent[0]).job.id, on_failure=parent[1]) if parent else ()
        sent = message(
            queue=queue,
            priority=priority,
            delay=self.stage.pace.delays[delay - 1] if delay else NO_DELAY,
            group=group,
            unique_key=key,
            depends_on=edges,
            max_crashes=2,
            expires_at=self.stage.now() + self.stage.pace.deadline if priority == 8 else None,
        )
        with self.step():
            self._enqueue(sent)

    def _enqueue(self, sent: Message) -> None:
        holder = self.model.holder_of_key(sent)
        [job_id] = self.stage.run(self.queue.enqueue([sent]))
        assert job_id == (holder or sent.job_id)
        if holder is None:
            job = self.stage.run(self.queue.get(job_id))
            assert job is not None
            assert (job.attempt, job.generation) == (0, 1)
            self.model.jobs[job_id] = Known(message=sent, job=job)
            if job.state.terminal:
                self.model.ended.add(job_id)
            found = {known.job.id: known.job for known in self.model.jobs.values()}
            self.model.check_parents(sent, job, found)
            check_history(self.stage.run(self.queue.history(job_id)), job)

    def _resend(self, known: Known) -> None:
        with self.step():
            assert list(self.stage.run(self.queue.enqueue([known.message]))) == [known.job.id]

    # workers

    @rule(
        queue=st.sampled_from(["default", "default", "video"]),
        limit=st.integers(1, 4),
        lease=st.sampled_from([0, 0, 1]),
        resume=st.booleans(),
    )
    def receive(self, queue: str, limit: int, lease: int, resume: bool) -> None:
        length = self.stage.pace.leases[lease]
        before = self.stage.now()
        sure = [
            one
            for one in self.model.jobs.values()
            if one.job.queue == queue and one.surely_ready(before - self.stage.pace.slack)
        ]
        with self.step(TIME) as step:
            held = self.stage.run(
                self.queue.receive(queue, limit=limit, wait=NO_DELAY, lease=length)
            )
            assert len(held) <= limit
            sure = [one for one in sure if not one.late(self.stage.now())]
            if queue in self.model.paused:
                assert not held, f"{queue} is paused"
            else:
                assert len(held) >= min(limit, len(sure)), f"of {sure} came {held}"
            for one in held:
                step.direct[one.job_id] = CLAIM
                self._hand_out(one, before, length)
        self._check_order(queue, held)
        if resume and queue in self.model.paused:
            self._pause_or_resume(queue)

    def _hand_out(self, held: Delivery, before: datetime, lease: timedelta) -> None:
        known = self.model.jobs[held.job_id]
        assert held.attempt == known.job.attempt + 1
        assert not known.surely_held(before), f"{held} is in somebody else's hands"
        assert held.message.payload == known.message.payload
        known.holder = held
        known.lease_at_least = before + lease - self.stage.pace.slack
        known.lease_at_most = self.stage.now() + lease + self.stage.pace.slack
        self.model.deliveries.append(held)

    def _check_order(self, queue: str, held: Sequence[Delivery]) -> None:
        ranks = [rank(self.model.jobs[one.job_id]) for one in held]
        assert ranks == sorted(ranks), f"not best first: {held}"
        now = self.stage.now()
        left = [
            rank(one)
            for one in self.model.jobs.values()
            if one.job.queue == queue and one.job.state is JobState.QUEUED and not one.late(now)
        ]
        if ranks and left:
            assert ranks[-1] < min(left), f"a better one was left behind than {held[-1]}"

    @precondition(lambda self: self.model.deliveries)
    @rule(pick=PICK, how=st.sampled_from(HOW), delay=st.integers(0, 2))
    def settle(self, pick: int, how: JobState | CountsAs, delay: int) -> None:
        held = self.delivery(pick)
        if isinstance(how, CountsAs):
            self._abandon(held, how, self.stage.pace.delays[delay - 1] if delay else NO_DELAY)
        elif how in (JobState.COMPLETED, JobState.CANCELLED):
            cancelled = how is JobState.CANCELLED
            done = Completion(delivery=held, result=b"result", cancelled=cancelled)
            self._settle(held, self.queue.complete([done]), how)
        else:
            timed_out = how is JobState.TIMED_OUT
            dead = DeadLetter(delivery=held, problem=problem(), timed_out=timed_out)
            self._settle(held, self.queue.dead_letter([dead]), how)

    def _abandon(self, held: Delivery, counts_as: CountsAs, delay: timedelta) -> None:
        known = self.model.jobs.get(held.job_id)
        state = JobState.QUEUED
        if known is not None:
            limit = known.message.max_crashes
            state = after_abandon(known.job, counts_as, limit, delayed=bool(delay))
        back = Abandonment(delivery=held, delay=delay, counts_as=counts_as, problem=problem())
        self._settle(held, self.queue.abandon([back]), state)

    def _settle(
        self, held: Delivery, work: Coroutine[Any, Any, Sequence[Delivery]], state: JobState
    ) -> None:
        current = self.model.is_current(held)
        known = self.model.jobs.get(held.job_id)
        with self.step(CASCADE if current else NONE) as step:
            lost = list(self.stage.run(work))
            if current:
                step.direct[held.job_id] = SETTLE
                assert not lost, f"{held} was held"
        if current and known is not None:
            assert known.job.state is state
        elif known is not None:
            self._check_refusal(held, known, lost)

    def _check_refusal(self, held: Delivery, known: Known, lost: Sequence[Delivery]) -> None:
        superseded = known.job.attempt > held.attempt
        assert not superseded or lost == [held], f"{held} was not refused: {known.job}"
        if lost:
            told = self.stage.run(self.queue.history(known.job.id))
            check_history(told, known.job)
            assert told[-1].type is E.FENCED, f"the refusal of {held} is not in the history"
            assert told[-1].attempt == held.attempt

    @precondition(lambda self: self.model.deliveries)
    @rule(picks=st.lists(PICK, min_size=1, max_size=3), lease=st.integers(0, 1))
    def extend(self, picks: list[int], lease: int) -> None:
        held = [self.delivery(pick) for pick in picks]
        length = self.stage.pace.leases[lease]
        expected = [self._lease_state(one) for one in held]
        before = self.stage.now()
        with self.step():
            states = list(self.stage.run(self.queue.extend(held, length)))
            assert states == expected
        for one, state in zip(held, states, strict=True):
            if state is not LeaseState.LOST:
                known = self.model.jobs[one.job_id]
                kept = before + length - self.stage.pace.slack
                known.lease_at_least = max(known.lease_at_least or kept, kept)
        # One lease may cover all that one receive handed out.
        latest = self.stage.now() + length + self.stage.pace.slack
        for known in self.model.jobs.values():
            if known.held and known.lease_at_most is not None:
                known.lease_at_most = max(known.lease_at_most, latest)

    def _lease_state(self, held: Delivery) -> LeaseState:
        if not self.model.is_current(held):
            return LeaseState.LOST
        asked = self.model.jobs[held.job_id].job.cancel_requested
        return LeaseState.CANCEL_REQUESTED if asked else LeaseState.KEPT

    # time

    @rule(length=PICK, recover=st.booleans())
    def pass_time(self, length: int, recover: bool) -> None:
        steps = self.stage.pace.steps
        with self.step(TIME):
            self.stage.pass_time(steps[length % len(steps)])
        if recover:
            self._recover()

    def _recover(self) -> None:
        now = self.stage.now() - self.stage.pace.slack
        running = {one.job.id for one in self.model.jobs.values() if one.held}
        lapsed = {one.job.id for one in self.model.jobs.values() if one.surely_lapsed(now)}
        waiting = [one for one in self.model.jobs.values() if one.job.state in WAITS_FOR_TIME]
        due = [one for one in waiting if one.job.run_at < now]
        with self.step(TIME):
            taken = self.stage.run(self.queue.recover())
        still = {one.job.id for one in self.model.jobs.values() if one.held}
        assert taken == len(running - still)
        assert not lapsed & still, "recovery left leases that had run out"
        assert not [one for one in due if one.job.state in WAITS_FOR_TIME]

    # operators

    @rule(pick=PICK, verb=st.sampled_from(STEERING))
    def steer(self, pick: int, verb: str) -> None:
        known = self.job(pick)
        if verb == "cancel":
            self._cancel(known)
        elif verb == "redrive":
            self._redrive(known)
        elif verb == "expedite":
            self._expedite(known)
        elif verb == "discard":
            self._discard(known)
        elif verb == "resend":
            self._resend(known)
        else:
            self._pause_or_resume(known.job.queue)

    def _cancel(self, known: Known) -> None:
        expected = CancelOutcome.CANCELLED
        if known.job.state.terminal:
            expected = CancelOutcome.FINISHED
        elif known.held:
            expected = CancelOutcome.REQUESTED
        with self.step(CASCADE) as step:
            step.direct[known.job.id] = frozenset({E.CANCELLED, E.CANCEL_REQUESTED})
            answer = self.stage.run(self.queue.cancel([known.job.id]))
            assert answer == {known.job.id: expected}
        assert known.job.cancel_requested or expected is not CancelOutcome.REQUESTED

    def _redrive(self, known: Known) -> None:
        before = known.job
        ended = before.state.terminal and before.state is not JobState.COMPLETED
        possible = ended and self.model.holder_of_key(known.message) is None
        with self.step() as step:
            step.direct[before.id] = frozenset({E.REDRIVEN}) if possible else NONE
            redriven = self.stage.run(self.queue.redrive([before.id]))
            assert list(redriven) == ([before.id] if possible else [])
        if possible:
            job = known.job
            assert (job.state, job.generation) == (JobState.QUEUED, before.generation + 1)
            assert (job.failures, job.crashes, job.problem) == (0, 0, None)

    def _expedite(self, known: Known) -> None:
        possible = known.job.state in WAITS_FOR_TIME
        with self.step() as step:
            step.direct[known.job.id] = frozenset({E.RELEASED_TO_QUEUE})
            hurried = self.stage.run(self.queue.expedite([known.job.id]))
            assert list(hurried) == ([known.job.id] if possible else [])

    def _discard(self, known: Known) -> None:
        if len(self.model.jobs) < 2:
            return
        with self.step():
            gone = self.stage.run(self.queue.discard([known.job.id]))
            assert list(gone) == ([known.job.id] if known.job.state.terminal else [])
            if gone:
                del self.model.jobs[known.job.id]

    def _pause_or_resume(self, queue: str) -> None:
        with self.step():
            if queue in self.model.paused:
                self.stage.run(self.queue.resume(queue))
                self.model.paused.discard(queue)
            else:
                self.stage.run(self.queue.pause(queue))
                self.model.paused.add(queue)
