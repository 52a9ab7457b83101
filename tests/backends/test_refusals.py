"""The other direction of the specification: a queue that declares little must refuse the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, Final

import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.errors import PayloadTooLarge, Unsupported
from jobbus.message import (
    Abandonment,
    Capabilities,
    Completion,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    QueueDepth,
)
from jobbus.testing import QueueConformance, VirtualClock, VirtualTime

MODEST: Final = Capabilities(
    durable=False,
    ledger=False,
    deduplicates=False,
    ordered_groups=False,
    priorities=False,
    dependencies=False,
    unique_keys=False,
    expiry=False,
    transactional=False,
    extends_leases=False,
    exact_counts=False,
    max_delay=timedelta(hours=1),
    max_lease=timedelta(hours=3),
    max_batch=10,
    max_payload=1000,
)


class ModestQueue:
    """Moves messages, as a bare broker does, and says no to everything else."""

    def __init__(self, inner: MemoryQueue) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return MODEST

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    def separate(self) -> ModestQueue:
        return ModestQueue(self.inner.separate())

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        if connection is not None:
            raise Unsupported("no transactions here")
        if len(messages) > (MODEST.max_batch or 0):
            raise Unsupported("too many at once")
        for one in messages:
            if len(one.payload) > MODEST.max_payload:
                raise PayloadTooLarge("too large")
            _refuse_delay(one.delay)
            asked = (one.group, one.unique_key, one.expires_at, one.depends_on or None)
            if one.priority != 5 or any(wish is not None for wish in asked):
                raise Unsupported("a plain queue carries plain messages")
        return await self.inner.enqueue(messages)

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        if lease > (MODEST.max_lease or lease):
            raise Unsupported("nobody holds a message for so long")
        return await self.inner.receive(queue, limit=limit, wait=wait, lease=lease)

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        return await self.inner.complete(done, connection=connection)

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        for one in back:
            _refuse_delay(one.delay)
        return await self.inner.abandon(back)

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        return await self.inner.dead_letter(dead)

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        raise Unsupported("leases are as long as they are")

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        return QueueDepth(ready=(await self.inner.get_queue_depth(queue)).ready)


def _refuse_delay(delay: timedelta) -> None:
    if delay > (MODEST.max_delay or delay):
        raise Unsupported("nobody waits for so long")


class TestModestQueue(VirtualTime, QueueConformance):
    """Passes all the same: by what it does, and by what it refuses."""

    @pytest.fixture
    async def queue(self) -> AsyncIterator[ModestQueue]:
        self.clock = VirtualClock()
        queue = ModestQueue(MemoryQueue(clock=self.clock))
        await queue.open()
        yield queue
        await queue.close()
