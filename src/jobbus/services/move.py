"""Moves jobs from one backend to another: a step at a time, and again after any interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from jobbus.errors import Unsupported
from jobbus.job import DEAD, UNFINISHED, JobState
from jobbus.message import DEFAULT_QUEUE
from jobbus.movable import MOVABLE, Departure, JobRecord
from jobbus.store import JobFilter

from .move_broker import BrokerEnd, Kind
from .move_ends import End, StoreEnd
from .move_records import with_past

BATCH: Final = 100
"""Jobs in one transaction of each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is moved."""

    queues: tuple[str, ...] = ()
    """None of them: all that the source knows; of a broker without a ledger, ``default``."""
    states: frozenset[JobState] = MOVABLE

    def filters(self) -> list[JobFilter]:
        return [JobFilter(queue=name, states=self.states) for name in self.queues or (None,)]

    def covers(self, queue: str) -> bool:
        return not self.queues or queue in self.queues


@dataclass(slots=True)
class Moved:
    """What came of a move."""

    moved: int = 0
    staying: dict[str, str] = field(default_factory=dict)
    """Why a job stays for now, by job id."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why the target does not take a job, by job id. It is back where it was."""
    homeless: set[str] = field(default_factory=set)
    """Refused, and not taken back either: they wait in the source's journal."""
    apart: dict[tuple[str, str], int] = field(default_factory=dict)
    """Dead letters of a broker that are none to move: how many, by queue and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a move would do."""

    moving: Mapping[tuple[str, JobState], int]
    staying: Mapping[tuple[str, str], int]
    """By queue, and reason."""
    notes: Sequence[str]

    @property
    def drained(self) -> bool:
        """Whether the source has nothing more that moves, or may move later."""
        return not self.moving and not self.staying


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the source's journal compares with what is at the target."""

    moved: int
    found: int | None
    """None where the target cannot say."""
    missing: Sequence[str]
    """Ids of jobs that moved and are not known at the target."""
    unsent: int
    """In the journal, and not yet at the target."""
    elsewhere: int
    """Lines of the journal about moves to other places."""
    left: Mapping[tuple[str, JobState], int]
    """What the source still has of unfinished jobs and dead letters."""

    @property
    def equal(self) -> bool:
        """Whether the counts are equal: nothing is under way, and nothing is missing."""
        return not self.unsent and self.found in (None, self.moved)


class Move:
    """Jobs from ``source`` to ``target``, both of them open."""

    def __init__(self, source: End, target: End, scope: Scope | None = None) -> None:
        self._source = source
        self._target = target
        self._scope = scope or Scope()
        self._pauses_taken: set[str] = set()
        """Queues whose pause was taken along: resumed at the target, they are not paused again."""

    async def once(self) -> Moved:
        """Move what can move now, as often as the last pass moved something.

        Raises what the backends raise; then nothing is lost, and the next call goes on.
        """
        result = Moved()
        try:
            await self._take_pauses_along()
            await self._send_rest(result)
            while await self._pass(result):
                pass
        finally:
            await self._source.let_go()
        if isinstance(self._source, BrokerEnd):
            result.apart = _flat(self._source.apart)
        return result

    async def _pass(self, result: Moved) -> int:
        before = result.moved
        result.staying.clear()
        for where in self._scope.filters():
            after = None
            while True:
                taken = await self._source.take_out(
                    where, to=self._target.location, limit=BATCH, after=after
                )
                result.staying |= taken.staying
                await self._deliver(taken.records, result)
                after = taken.cursor
                if after is None:
                    break
        return result.moved - before

    async def _deliver(self, records: Sequence[JobRecord], result: Moved) -> None:
        if not records:
            return
        if isinstance(self._source, BrokerEnd) and isinstance(self._target, StoreEnd):
            records = await _with_past(records, self._target)
        refused = await self._target.take_in(records, origin=self._source.location)
        arrived = [record for record in records if record.job.id not in refused]
        back = [record for record in records if record.job.id in refused]
        result.homeless |= await self._source.settle(arrived, back)
        for record in arrived:
            result.refused.pop(record.job.id, None)
        result.refused |= refused
        result.moved += len(arrived)

    async def _send_rest(self, result: Moved) -> None:
        """What an earlier move took out and did not see arrive."""
        async for page in self._journal():
            await self._deliver([line.record for line in page if not line.arrived], result)

    async def _take_pauses_along(self) -> None:
        """A queue that hands out nothing must not begin to, because its jobs moved."""
        if not isinstance(self._source, StoreEnd):
            return
        paused = [
            queue
            for queue in await self._source.store.queues()
            if queue.paused
            and self._scope.covers(queue.name)
            and queue.name not in self._pauses_taken
        ]
        if paused and isinstance(self._target, BrokerEnd):
            raise Unsupported(
                f"queue {paused[0].name} is paused, and {self._target.location} cannot pause: "
                "resume it first, or give the target a ledger (--to-ledger)"
            )
        if isinstance(self._target, StoreEnd):
            already = {q.name for q in await self._target.store.queues() if q.paused}
            for queue in paused:
                if queue.name not in already:
                    await self._target.store.pause(queue.name, reason=queue.reason)
                self._pauses_taken.add(queue.name)

    async def _journal(self) -> AsyncIterator[Sequence[Departure]]:
        """The source's lines about moves to this target, a page at a time."""
        async for page in self._whole_journal():
            yield [line for line in page if line.to == self._target.location]

    async def _whole_journal(self) -> AsyncIterator[Sequence[Departure]]:
        if not isinstance(self._source, StoreEnd):
            return
        after = None
        while page := await self._source.store.departures(limit=BATCH, after=after):
            after = page[-1].record.job.id
            yield page

    # looking before, looking after

    async def plan(self) -> Plan:
        """What :meth:`once` would do, as things stand. Changes nothing."""
        if isinstance(self._source, BrokerEnd):
            return await self._plan_of_broker(self._source)
        moving: Counter[tuple[str, JobState]] = Counter()
        staying: Counter[tuple[str, str]] = Counter()
        for (queue, state), number in (await self._source.store.counts()).items():
            if not self._scope.covers(queue):
                continue
            if state in self._scope.states:
                moving[queue, state] += number
            elif state is JobState.RUNNING:
                staying[queue, "running: it ends where it is"] += number
        notes = []
        if isinstance(self._target, BrokerEnd):
            notes.append("histories stay in the journal of the source: a broker keeps none")
            await self._ask(self._source, self._target, moving, staying)
        return Plan(moving=+moving, staying=staying, notes=notes)

    async def _ask(
        self,
        source: StoreEnd,
        target: BrokerEnd,
        moving: Counter[tuple[str, JobState]],
        staying: Counter[tuple[str, str]],
    ) -> None:
        """Let the broker say of every job whether it could hold it."""
        now = datetime.now(UTC)
        for where in self._scope.filters():
            cursor = None
            while True:
                page = await source.store.find(where, limit=BATCH, cursor=cursor)
                for job in page.jobs:
                    record = JobRecord(job=job, initial_state=job.state, max_crashes=1)
                    why = target.refusal(record, now)
                    if why is None and job.state is JobState.BLOCKED and job.group is None:
                        why = "it depends on other jobs, which the queue cannot wait for"
                    if why is not None:
                        moving[job.queue, job.state] -= 1
                        staying[job.queue, why] += 1
                cursor = page.cursor
                if cursor is None:
                    break

    async def _plan_of_broker(self, source: BrokerEnd) -> Plan:
        moving: Counter[tuple[str, JobState]] = Counter()
        staying: Counter[tuple[str, str]] = Counter()
        notes = ["a broker without a ledger has no history to bring, and keeps no journal"]
        for (name, why), number in _flat(source.apart).items():
            notes.append(f"{number:,} among the dead letters of queue {name} stay: {why}")
        for name in self._scope.queues or (DEFAULT_QUEUE,):
            depth = await source.queue.get_queue_depth(name)
            dead = max((depth.dead or 0) - source.apart.get(name, Counter()).total(), 0)
            staying[name, "with a worker"] += depth.leased or 0
            if source.takes_out(Kind.WAITING, self._scope.states):
                moving[name, JobState.QUEUED] += depth.ready
            if source.takes_out(Kind.DELAYED, self._scope.states):
                moving[name, JobState.SCHEDULED] += depth.delayed or 0
                if depth.delayed is None:
                    notes.append(f"how many are delayed for queue {name}, the broker cannot say")
            else:
                staying[name, "delayed: the broker keeps it until it is due"] += depth.delayed or 0
            if source.takes_out(Kind.DEAD, self._scope.states):
                moving[name, JobState.FAILED] += dead
                if depth.dead is None:
                    notes.append(
                        f"how many dead letters are of queue {name}, the broker cannot say"
                    )
            elif JobState.FAILED in self._scope.states:
                staying[name, "dead: redrive it with the broker's own tools first"] += dead
        return Plan(moving=+moving, staying=+staying, notes=notes)

    async def verify(self) -> Verdict:
        """Whether everything that moved is at the target. Raises Unsupported without a journal."""
        source = self._with_journal("verified")
        moved = unsent = found = elsewhere = 0
        missing: list[str] = []
        async for lines in self._whole_journal():
            page = [line for line in lines if line.to == self._target.location]
            elsewhere += len(lines) - len(page)
            arrived = [line.record.job.id for line in page if line.arrived]
            moved += len(arrived)
            unsent += len(page) - len(arrived)
            if isinstance(self._target, StoreEnd) and arrived:
                known = await _known(self._target, arrived)
                found += len(known)
                missing += [job_id for job_id in arrived if job_id not in known]
        counts = await source.store.counts()
        return Verdict(
            moved=moved,
            found=found if isinstance(self._target, StoreEnd) else None,
            missing=missing,
            unsent=unsent,
            elsewhere=elsewhere,
            left={
                (queue, state): number
                for (queue, state), number in counts.items()
                if state in UNFINISHED | DEAD and self._scope.covers(queue)
            },
        )

    # the way back

    async def roll_back(self) -> Moved:
        """Bring back what moved and has not started at the target, or is a dead letter there.

        What was enqueued at the target meanwhile stays there. Raises Unsupported without a journal.
        """
        source = self._with_journal("rolled back")
        result = Moved()
        if isinstance(self._target, BrokerEnd):
            return await self._receive_back(source, self._target)
        async for page in self._journal():
            await self._bring_back(source, self._target, page, result)
        return result

    async def _receive_back(self, source: StoreEnd, target: BrokerEnd) -> Moved:
        queues = {line.record.job.queue async for page in self._journal() for line in page}
        if not queues:
            return Moved()
        scope = Scope(queues=self._scope.queues or tuple(sorted(queues)))
        result = await Move(target, source, scope).once()
        async for page in self._journal():
            result.staying |= {
                line.record.job.id: "the broker did not hand it out: it is not due, or a worker "
                "has it, or had it"
                for line in page
            }
        return result

    async def _bring_back(
        self, source: StoreEnd, target: StoreEnd, page: Sequence[Departure], result: Moved
    ) -> None:
        ids = [line.record.job.id for line in page]
        if not ids:
            return
        where = JobFilter(ids=tuple(ids), states=self._scope.states)
        after = None
        while True:
            taken = await target.take_out(where, to=source.location, limit=BATCH, after=after)
            way = Move(target, source)
            await way._deliver(taken.records, result)  # the same, turned round
            result.staying |= taken.staying
            after = taken.cursor
            if after is None:
                break
        known = await _known(target, ids)
        never_came = [
            line.record for line in page if not line.arrived and line.record.job.id not in known
        ]
        never_came = [r for r in never_came if not await source.store.get(r.job.id)]
        result.homeless |= await source.settle([], never_came)
        result.moved += len(never_came)
        result.staying |= dict.fromkeys(known, "it has started at the target, or has ended there")

    async def finish(self) -> int:
        """Forget the journal, and with it the way back; return how many lines it had."""
        source = self._with_journal("finished")
        forgotten = 0
        async for page in self._journal():
            ids = [line.record.job.id for line in page if line.arrived]
            await source.store.forget_departures(ids)
            forgotten += len(ids)
        return forgotten

    def _with_journal(self, what: str) -> StoreEnd:
        if not isinstance(self._source, StoreEnd):
            raise Unsupported(
                f"a move from {self._source.location} cannot be {what}: a broker without a ledger "
                "keeps no journal of what left it. To bring jobs back, move them the other way"
            )
        return self._source


async def _with_past(records: Sequence[JobRecord], home: StoreEnd) -> Sequence[JobRecord]:
    """What the journal at ``home`` tells of jobs that come back from a broker without a memory."""
    lines = await home.store.departures(limit=BATCH, ids=[record.job.id for record in records])
    past = {line.record.job.id: line.record for line in lines}
    return [
        with_past(record, past[record.job.id]) if record.job.id in past else record
        for record in records
    ]


def _flat(apart: Mapping[str, Counter[str]]) -> dict[tuple[str, str], int]:
    return {(name, why): n for name, counts in apart.items() for why, n in counts.items()}


async def _known(end: StoreEnd, job_ids: Iterable[str]) -> set[str]:
    page = await end.store.find(JobFilter(ids=tuple(job_ids)), limit=BATCH)
    return {job.id for job in page.jobs}
