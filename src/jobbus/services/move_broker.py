"""A broker that remembers nothing, as a place from and to which jobs move."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from jobbus.errors import ConfigurationError
from jobbus.job import DEAD, UNFINISHED, JobState
from jobbus.message import (
    DEFAULT_QUEUE,
    Abandonment,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
)
from jobbus.movable import Drainable, JobRecord, TakenOut
from jobbus.queue import BackgroundJobQueue, beyond
from jobbus.store import JobFilter
from jobbus.tracked.bundles import TICKET

from . import move_records

_LEASE: Final = timedelta(seconds=60)


class Kind(StrEnum):
    """Where a broker keeps messages, in the order in which a move looks there."""

    WAITING = "waiting"
    DELAYED = "delayed"
    DEAD = "dead"


STATES: Final[Mapping[Kind, Set[JobState]]] = {
    Kind.WAITING: UNFINISHED - {JobState.SCHEDULED, JobState.RETRYING},
    Kind.DELAYED: {JobState.SCHEDULED, JobState.RETRYING},
    Kind.DEAD: DEAD,
}


@dataclass(slots=True)
class BrokerEnd:
    """A broker without a ledger: what is received here is completed once it is elsewhere."""

    queue: BackgroundJobQueue
    location: str
    wait: timedelta = timedelta(seconds=2)
    """How long the next message may take to come; behind the last one, we wait in vain."""
    apart: dict[str, Counter[str]] = field(default_factory=dict)
    """Dead letters that did not move when they were last looked at: how many, by queue and why."""
    _held: dict[str, list[Delivery]] = field(default_factory=dict)
    """What is on its way, or refused at the other end, by job id."""
    _unfit: list[Delivery] = field(default_factory=list)
    """Dead letters that are held and do not move, lest they come again at once."""
    _burrowing: set[str] = field(default_factory=set)
    """Queues whose dead letters are being looked through."""
    _looked: set[str] = field(default_factory=set)
    """Queues whose delayed messages were looked for already, since the last :meth:`let_go`."""
    _renewed: float = field(default_factory=time.monotonic)

    @property
    def drainable(self) -> Drainable | None:
        """The broker, where it gives out more than a worker receives."""
        return self.queue if isinstance(self.queue, Drainable) else None

    def takes_out(self, kind: Kind, states: Set[JobState]) -> bool:
        """Whether this kind of message can be taken out here, and is asked for."""
        able = self.drainable
        if kind is Kind.DELAYED and not (able is not None and able.gives_delayed):
            return False
        return bool(states & STATES[kind]) and (kind is not Kind.DEAD or able is not None)

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None
    ) -> TakenOut:
        """A page of one kind. Delayed messages are looked for once between two ``let_go``."""
        kinds = [kind for kind in Kind if self.takes_out(kind, where.states)]
        if not kinds:
            return TakenOut()
        name, kind = where.queue or DEFAULT_QUEUE, kinds[0] if after is None else Kind(after)
        await self._keep_hold()
        match kind:
            case Kind.WAITING:
                records, more = await self._take_waiting(name, limit)
            case Kind.DELAYED:
                records, more = await self._take_delayed(name, limit)
            case Kind.DEAD:
                records, more = await self._take_dead(name, limit, where.states)
        later = kinds[kinds.index(kind) + (0 if more else 1) :]
        return TakenOut(records=records, cursor=later[0] if later else None)

    async def _take_waiting(self, name: str, limit: int) -> tuple[list[JobRecord], bool]:
        deliveries = await self.queue.receive(name, limit=limit, wait=self.wait, lease=self._lease)
        fresh = self._hold(deliveries)
        return [move_records.waiting(one) for one in deliveries], fresh

    async def _take_delayed(self, name: str, limit: int) -> tuple[list[JobRecord], bool]:
        able = self.drainable
        if able is None or name in self._looked:
            return [], False
        deliveries = await able.receive_delayed(name, limit=limit)
        if not deliveries:
            self._looked.add(name)
        self._hold(deliveries)
        return [move_records.delayed(one) for one in deliveries], bool(deliveries)

    async def _take_dead(
        self, name: str, limit: int, states: Set[JobState]
    ) -> tuple[list[JobRecord], bool]:
        able = self.drainable
        if able is None:
            return [], False
        if name not in self._burrowing:
            self._burrowing.add(name)
            self.apart[name] = Counter()
        letters = await able.receive_dead(name, limit=limit, wait=self.wait, lease=self._lease)
        fit: list[DeadLetter] = []
        for letter in letters:
            why = _unfit(letter, name, states)
            if why is None:
                fit.append(letter)
            else:
                self._unfit.append(letter.delivery)
                self.apart[name][why] += 1
        fresh = self._hold([letter.delivery for letter in fit])
        if not letters:
            # They may be those of another queue, which is looked through next.
            self._burrowing.discard(name)
            unfit, self._unfit = self._unfit, []
            await self._release(unfit)
        return [move_records.dead(letter) for letter in fit], fresh or len(fit) < len(letters)

    def _hold(self, deliveries: Sequence[Delivery]) -> bool:
        """Remember them; whether there is one among them that is not held already."""
        fresh = False
        for one in deliveries:
            known = self._held.setdefault(one.job_id, [])
            fresh = fresh or not known
            known.append(one)
        if any(TICKET in one.message.headers for one in deliveries):
            raise ConfigurationError(
                f"what waits at {self.location} are tickets, whose jobs are in a ledger: name it "
                "as well (--from-ledger)"
            )
        return fresh

    async def _keep_hold(self) -> None:
        """Renew what is held for long: it would come again, and be looked at without end."""
        now = time.monotonic()
        held = [*self._unfit, *(one for some in self._held.values() for one in some)]
        if now - self._renewed > self._lease.total_seconds() / 3:
            self._renewed = now
            if held:
                await self.queue.extend(held, self._lease)

    @property
    def _lease(self) -> timedelta:
        return min(_LEASE, self.queue.capabilities.max_lease or _LEASE)

    async def take_in(self, records: Sequence[JobRecord], *, origin: str) -> Mapping[str, str]:
        now = datetime.now(UTC)
        refused = {
            record.job.id: why
            for record in records
            if (why := self.refusal(record, now)) is not None
        }
        taken = [record for record in records if record.job.id not in refused]
        size = self.queue.capabilities.max_batch or len(taken) or 1
        messages = [move_records.sendable(r, now) for r in taken if not r.job.state.terminal]
        for start in range(0, len(messages), size):
            await self.queue.enqueue(messages[start : start + size])
        letters = [move_records.dead_letter(r, now) for r in taken if r.job.state.terminal]
        if letters and self.drainable is not None:
            await self.drainable.enqueue_dead(letters)
        return refused

    def refusal(self, record: JobRecord, now: datetime) -> str | None:
        """Why the broker cannot hold this job; None when it can."""
        if record.job.state.terminal:
            if record.job.state not in DEAD:
                return "a broker keeps no record of jobs that have ended"
            if self.drainable is None or not self.drainable.takes_dead:
                return "this broker keeps dead letters only of what it delivered itself"
        message = move_records.sendable(record, now)
        lacking = list(beyond(message, self.queue.capabilities))
        return f"it {'; '.join(lacking)}" if lacking else None

    async def settle(self, arrived: Sequence[JobRecord], back: Sequence[JobRecord]) -> set[str]:
        """Complete what the other end has. The rest is kept, or it would come again at once."""
        done = [one for record in arrived for one in self._held.pop(record.job.id, ())]
        if done:
            await self.queue.complete([Completion(delivery=delivery) for delivery in done])
        return set()

    async def let_go(self) -> None:
        """Hand back what was received and is not elsewhere."""
        held = [*self._unfit, *(one for some in self._held.values() for one in some)]
        self._held, self._unfit = {}, []
        self._looked.clear()
        self._burrowing.clear()
        await self._release(held)

    async def _release(self, held: Sequence[Delivery]) -> None:
        if held:
            await self.queue.abandon(
                [Abandonment(delivery=one, counts_as=CountsAs.RELEASE) for one in held]
            )


def _unfit(letter: DeadLetter, queue: str, states: Set[JobState]) -> str | None:
    """Why a dead letter stays where it is; None where it moves."""
    message = letter.delivery.message
    state = JobState.TIMED_OUT if letter.timed_out else JobState.FAILED
    if not message.job_id:
        return "no message of jobbus's, or one that cannot be read"
    if message.queue != queue:
        return f"a dead letter of queue {message.queue}: name it with --queue"
    if TICKET in message.headers:
        return "a ticket, whose job is in a ledger"
    return None if state in states else f"a dead letter in state {state}, which was not asked for"
