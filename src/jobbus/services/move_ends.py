"""Where jobs move from and to: a store, or a broker that remembers nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, cast

from jobbus.errors import ConfigurationError, Unsupported
from jobbus.job import Job, JobState
from jobbus.message import NO_DELAY, Abandonment, Completion, CountsAs, Delivery, Message
from jobbus.movable import JobRecord, Movable, TakenOut
from jobbus.queue import BackgroundJobQueue, beyond
from jobbus.store import JobFilter, JobStore
from jobbus.tracked.relay import TICKET

_LEASE: Final = timedelta(seconds=60)


class MovableStore(BackgroundJobQueue, JobStore, Movable, Protocol):
    """A backend with a ledger from which and into which jobs can be moved."""


@dataclass(frozen=True, slots=True)
class StoreEnd:
    """A backend that remembers its jobs."""

    store: MovableStore
    location: str
    """Without secrets."""

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None
    ) -> TakenOut:
        return await self.store.take_out(where, to=to, limit=limit, after=after)

    async def take_in(self, records: Sequence[JobRecord], *, origin: str) -> Mapping[str, str]:
        return await self.store.take_in(records, origin=origin)

    async def settle(self, arrived: Sequence[JobRecord], back: Sequence[JobRecord]) -> set[str]:
        """Note what the other end has, and take the rest home; ids of what cannot come home."""
        if arrived:
            await self.store.note_arrival([record.job.id for record in arrived])
        return set(await self.store.take_in(back, origin=None)) if back else set()

    async def let_go(self) -> None:
        """Nothing is held: what is not elsewhere is in the journal."""


@dataclass(slots=True)
class BrokerEnd:
    """A broker without a ledger: what is received here is completed once it is elsewhere."""

    queue: BackgroundJobQueue
    location: str
    wait: timedelta = timedelta(seconds=2)
    """How long the next message may take to come; behind the last one, we wait in vain."""
    _held: dict[str, Delivery] = field(default_factory=dict)
    """What is on its way, or refused at the other end."""

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None
    ) -> TakenOut:
        """A page of what a worker would receive; delayed messages stay until they are due."""
        name = where.queue or "default"
        deliveries = await self.queue.receive(name, limit=limit, wait=self.wait, lease=_LEASE)
        self._held |= {delivery.job_id: delivery for delivery in deliveries}
        if any(TICKET in delivery.message.headers for delivery in deliveries):
            raise ConfigurationError(
                f"what waits at {self.location} are tickets, whose jobs are in a ledger: name it "
                "as well (--from-ledger)"
            )
        return TakenOut(
            records=[_record(delivery) for delivery in deliveries],
            cursor=name if deliveries else None,
        )

    async def take_in(self, records: Sequence[JobRecord], *, origin: str) -> Mapping[str, str]:
        now = datetime.now(UTC)
        refused = {
            record.job.id: why
            for record in records
            if (why := self.refusal(record, now)) is not None
        }
        messages = [_sendable(r, now) for r in records if r.job.id not in refused]
        size = self.queue.capabilities.max_batch or len(messages) or 1
        for start in range(0, len(messages), size):
            await self.queue.enqueue(messages[start : start + size])
        return refused

    def refusal(self, record: JobRecord, now: datetime) -> str | None:
        """Why the broker cannot hold this job; None when it can."""
        if record.job.state.terminal:
            return "a broker keeps dead letters only of what it delivered itself"
        lacking = list(beyond(_sendable(record, now), self.queue.capabilities))
        return f"it {'; '.join(lacking)}" if lacking else None

    async def settle(self, arrived: Sequence[JobRecord], back: Sequence[JobRecord]) -> set[str]:
        """Complete what the other end has. The rest is kept, or it would come again at once."""
        done = [self._held.pop(record.job.id) for record in arrived]
        if done:
            await self.queue.complete([Completion(delivery=delivery) for delivery in done])
        return set()

    async def let_go(self) -> None:
        """Hand back what was received and is not elsewhere."""
        held, self._held = list(self._held.values()), {}
        if held:
            await self.queue.abandon(
                [Abandonment(delivery=one, counts_as=CountsAs.RELEASE) for one in held]
            )


End = StoreEnd | BrokerEnd


def end_of(queue: BackgroundJobQueue, location: str) -> End:
    """The kind of place that this queue is. Raises Unsupported for a ledger that nothing leaves."""
    if not queue.capabilities.ledger:
        return BrokerEnd(queue, location)
    if not isinstance(queue, Movable):
        raise Unsupported(f"jobs cannot be moved from or to {location}: it implements no Movable")
    return StoreEnd(cast(MovableStore, queue), location)


def _sendable(record: JobRecord, now: datetime) -> Message:
    """The message for a broker, whose clock may not be asked: the delay that is left."""
    message = record.message()
    due = message.run_at
    delay = max(due - now, NO_DELAY) if due is not None else NO_DELAY
    return replace(message, run_at=None, delay=delay)


def _record(delivery: Delivery) -> JobRecord:
    """What a delivery says of its job. That we received it was no attempt of it."""
    message = delivery.message
    came = delivery.enqueued_at or datetime.now(UTC)
    return JobRecord(
        job=Job(
            id=message.job_id,
            job_type=message.job_type,
            queue=message.queue,
            state=JobState.QUEUED,
            priority=message.priority,
            payload=message.payload,
            attempt=delivery.attempt - 1,
            failures=delivery.failures,
            crashes=delivery.crashes,
            snoozes=0,
            max_attempts=message.max_attempts,
            generation=1,
            created_at=came,
            run_at=came,
            expires_at=message.expires_at,
            timeout=message.timeout,
            parent_id=message.parent_id,
            unique_key=message.unique_key,
            group=message.group,
            tags=message.tags,
            headers=message.headers,
            metadata=message.metadata,
        ),
        initial_state=JobState.QUEUED,
        max_crashes=message.max_crashes,
    )
