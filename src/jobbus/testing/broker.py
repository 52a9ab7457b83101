"""A broker at its worst, on demand: for tests of what a ledger makes of any broker.

It keeps its messages in a jobbus database, of which it shows no more than a broker would: it
remembers no job, knows no priority, delays for a quarter of an hour at most and takes ten messages
at a time. Its :class:`Weather` says what goes wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from jobbus.errors import BackendUnavailable, PayloadTooLarge, Unsupported
from jobbus.ids import new_id
from jobbus.message import (
    BARE_BROKER,
    Abandonment,
    Capabilities,
    Completion,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    Priority,
    QueueDepth,
)
from jobbus.queue import BackgroundJobQueue, refuse_beyond

CAPABILITIES: Final = replace(
    BARE_BROKER,
    max_delay=timedelta(minutes=15),
    max_lease=timedelta(hours=12),
    max_batch=10,
    max_payload=256 * 1024,
)
_FOREVER: Final = 2**31 - 1
_ID, _PRIOR, _CRASHES = "job_id", "prior_attempts", "max_crashes"


@dataclass
class Weather:
    """What goes wrong at the broker from now on; shared by all queues that are one broker."""

    down: bool = False
    """Every call fails."""
    twice: bool = False
    """Every message comes twice."""
    shuffled: bool = False
    """Messages come in any order."""
    losing: int = 0
    """So many messages are accepted and never seen again."""
    deaf: bool = False
    """Nothing that is told about a delivery arrives: settled messages come again."""
    counting: bool = False
    """What was delivered and not settled counts as an attempt of its job."""
    refused: int = 0
    """Calls that failed because it was down."""
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    accepted: list[Message] = field(default_factory=list)
    """Every message that was sent, lost ones included."""


class BareBroker:
    """A queue without a ledger, over any that has one."""

    def __init__(self, inner: BackgroundJobQueue, weather: Weather | None = None) -> None:
        self._inner = inner
        self.weather = weather or Weather()

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def open(self) -> None:
        self._fail_when_down()
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    def separate(self) -> BareBroker:
        return BareBroker(self._inner.separate(), self.weather)

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        self._fail_when_down()
        if connection is not None:
            raise Unsupported("a broker cannot join a database's transaction")
        for message in messages:
            _check(message, len(messages))
        kept: list[Message] = []
        for message in messages:
            self.weather.accepted.append(message)
            if self.weather.losing:
                self.weather.losing -= 1
                continue
            kept += [self._stored(message) for _ in range(2 if self.weather.twice else 1)]
        await self._inner.enqueue(kept)
        return [message.job_id for message in messages]

    def _stored(self, message: Message) -> Message:
        facts = {
            _ID: message.job_id,
            _PRIOR: message.prior_attempts,
            _CRASHES: message.max_crashes,
        }
        shuffled = self.weather.shuffled
        return replace(
            message,
            job_id=new_id(),
            prior_attempts=0,
            max_crashes=_FOREVER,
            metadata={"facts": facts, "own": dict(message.metadata)},
            priority=self.weather.chance.randint(1, 10) if shuffled else Priority.NORMAL,
        )

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        self._fail_when_down()
        if lease > (CAPABILITIES.max_lease or lease):
            raise Unsupported(f"this broker leases for {CAPABILITIES.max_lease} at most")
        size = min(limit, CAPABILITIES.max_batch or limit)
        held = await self._inner.receive(queue, limit=size, wait=wait, lease=lease)
        return [_delivered(one, counting=self.weather.counting) for one in held]

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        self._fail_when_down()
        if connection is not None:
            raise Unsupported("a broker cannot join a database's transaction")
        if self.weather.deaf:
            return []
        lost = await self._inner.complete([replace(c, delivery=c.delivery.receipt) for c in done])
        return _outer(lost, [c.delivery for c in done])

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        self._fail_when_down()
        if any(a.delay > (CAPABILITIES.max_delay or a.delay) for a in back):
            raise Unsupported(f"this broker delays for {CAPABILITIES.max_delay} at most")
        if self.weather.deaf:
            return []
        lost = await self._inner.abandon([replace(a, delivery=a.delivery.receipt) for a in back])
        return _outer(lost, [a.delivery for a in back])

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        self._fail_when_down()
        lost = await self._inner.dead_letter(
            [replace(d, delivery=d.delivery.receipt) for d in dead]
        )
        return _outer(lost, [d.delivery for d in dead])

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        self._fail_when_down()
        return await self._inner.extend([one.receipt for one in held], lease)

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        self._fail_when_down()
        return QueueDepth(ready=(await self._inner.get_queue_depth(queue)).ready)

    def _fail_when_down(self) -> None:
        if self.weather.down:
            self.weather.refused += 1
            raise BackendUnavailable("the broker is down")


def _delivered(inner: Delivery, *, counting: bool) -> Delivery:
    facts = inner.message.metadata["facts"]
    unsettled = inner.attempt - 1 if counting else 0
    message = replace(
        inner.message,
        job_id=facts[_ID],
        prior_attempts=facts[_PRIOR] + unsettled,
        max_crashes=facts[_CRASHES],
        metadata=inner.message.metadata["own"],
        priority=Priority.NORMAL,
    )
    return replace(inner, message=message, receipt=inner)


def _outer(lost: Sequence[Delivery], given: Sequence[Delivery]) -> list[Delivery]:
    known = {id(one.receipt): one for one in given}
    return [known[id(one)] for one in lost]


def _check(message: Message, number: int) -> None:
    limits = CAPABILITIES
    refuse_beyond(message, limits, "this broker")
    if number > (limits.max_batch or number):
        raise Unsupported(f"this broker takes no batches of {number}")
    if len(message.payload) > limits.max_payload:
        raise PayloadTooLarge(f"this broker takes {limits.max_payload} bytes at most")
