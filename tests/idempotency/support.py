"""Queues and stores around others, for the moments that real ones seldom have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self

from jobbus import Job, JobBus, JobState
from jobbus.backends.memory import MemoryQueue
from jobbus.errors import BackendUnavailable
from jobbus.idempotency import Answer, IdempotencyStore, KeyClaim, KeyEnd, KeyHold, KeyRecord, Reply
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
from tests.flow.support import eventually

Before = Callable[[str], Awaitable[None]]


@dataclass
class Switch:
    """Whether a store can be reached, and what was asked of it."""

    on: bool = True
    asked: list[str] = field(default_factory=list)
    before: Before | None = None
    """Called with the verb before it is passed on."""


class SwitchedStore:
    """A store that can be out of reach."""

    def __init__(self, inner: IdempotencyStore, switch: Switch | None = None) -> None:
        self.inner = inner
        self.switch = switch or Switch()

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    def separate(self) -> Self:
        return type(self)(self.inner.separate(), self.switch)

    async def _pass(self, verb: str) -> IdempotencyStore:
        if self.switch.before is not None:
            await self.switch.before(verb)
        self.switch.asked.append(verb)
        if not self.switch.on:
            raise BackendUnavailable("the store is switched off")
        return self.inner

    async def begin(self, claims: Sequence[KeyClaim], lease: timedelta) -> Sequence[Reply]:
        return await (await self._pass("begin")).begin(claims, lease)

    async def renew(self, holds: Sequence[KeyHold], lease: timedelta) -> Sequence[Answer]:
        return await (await self._pass("renew")).renew(holds, lease)

    async def complete(
        self, ends: Sequence[KeyEnd], *, connection: Any | None = None
    ) -> Sequence[Answer]:
        return await (await self._pass("complete")).complete(ends, connection=connection)

    async def fail(self, ends: Sequence[KeyEnd]) -> Sequence[Answer]:
        return await (await self._pass("fail")).fail(ends)

    async def release(self, holds: Sequence[KeyHold]) -> Sequence[Answer]:
        return await (await self._pass("release")).release(holds)

    async def look(self, keys: Sequence[str]) -> Sequence[KeyRecord | None]:
        return await (await self._pass("look")).look(keys)

    async def reopen(self, keys: Sequence[str]) -> None:
        await (await self._pass("reopen")).reopen(keys)

    async def prune(self, *, limit: int = 1000) -> int:
        return await self.inner.prune(limit=limit)

    async def concerns(self) -> Sequence[str]:
        return ()


class BareBroker:
    """A queue that moves messages and remembers nothing of jobs."""

    def __init__(self, inner: MemoryQueue, **declared: Any) -> None:
        self.inner = inner
        self.declared = declared
        self.settled: list[object] = []
        self.refuse = False
        """Settlements are lost on their way."""

    @property
    def capabilities(self) -> Capabilities:
        plain = replace(self.inner.capabilities, ledger=False, deduplicates=False)
        return replace(plain, **self.declared)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    def separate(self) -> BareBroker:
        return BareBroker(self.inner.separate(), **self.declared)

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        return await self.inner.enqueue(messages, connection=connection)

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        return await self.inner.receive(queue, limit=limit, wait=wait, lease=lease)

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        self.settled += done
        return [] if self.refuse else await self.inner.complete(done)

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        self.settled += back
        return [] if self.refuse else await self.inner.abandon(back)

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        self.settled += dead
        return [] if self.refuse else await self.inner.dead_letter(dead)

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        return await self.inner.extend(held, lease)

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        return await self.inner.get_queue_depth(queue)


async def snoozed(bus: JobBus, job_id: str) -> Job:
    """The job, once it was sent back without an attempt."""

    async def probe() -> Job | None:
        job = await bus.get(job_id)
        assert job is not None
        return job if job.state is JobState.RETRYING and job.snoozes else None

    job = await eventually(probe, "a snooze")
    assert job is not None
    assert job.failures == 0
    return job


async def key_of(bus: JobBus, job_type: str, key: str) -> KeyRecord | None:
    store = await bus.idempotency_store()
    [record] = await store.look([f"{job_type}/{key}"])
    return record


class Effects:
    """What handlers did, and a gate that holds them up meanwhile."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
