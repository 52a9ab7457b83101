"""What the cases of idempotency keys stand on: claims, holds, and leases that nobody waits for."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import ClassVar

import pytest

from jobbus.idempotency.store import Answer, IdempotencyStore, KeyClaim, KeyEnd, KeyHold, Reply
from jobbus.ids import new_id

LONG = timedelta(hours=1)
OVER = timedelta(0)
"""A lease that has run out when it begins."""


class IdempotencySuite:
    """Helpers, and a knob. Subclasses provide the fixture ``store``, open and empty."""

    ttl: ClassVar[timedelta] = timedelta(days=7)
    """The time to live of the fixture's store."""

    pytestmark = pytest.mark.asyncio

    @abstractmethod
    def with_ttl(self, store: IdempotencyStore, ttl: timedelta) -> IdempotencyStore:
        """The same keys on the same connections, with another time to live."""

    @abstractmethod
    async def left(self, store: IdempotencyStore, key: str) -> timedelta:
        """How much of a key's time to live is left, by the store's clock."""

    def claim(
        self, key: str = "key", *, fingerprint: str = "payload", max_crashes: int = 3
    ) -> KeyClaim:
        """A claim by a new owner."""
        owner = new_id().replace("-", "")
        return KeyClaim(
            key=key,
            owner=owner,
            fingerprint=fingerprint,
            job_id=new_id(),
            max_crashes=max_crashes,
        )

    async def begin(
        self, store: IdempotencyStore, claim: KeyClaim, lease: timedelta = LONG
    ) -> Reply:
        [reply] = await store.begin([claim], lease)
        return reply

    async def held(
        self, store: IdempotencyStore, claim: KeyClaim | None = None, lease: timedelta = LONG
    ) -> KeyHold:
        """A key in somebody's hands."""
        asked = claim or self.claim()
        reply = await self.begin(store, asked, lease)
        assert reply.answer in (Answer.ACQUIRED, Answer.STOLEN)
        return asked.held(reply.fence)

    async def complete(
        self, store: IdempotencyStore, hold: KeyHold, data: bytes | None = b'"done"'
    ) -> Answer:
        [answer] = await store.complete([KeyEnd(hold=hold, data=data)])
        return answer

    async def fail(self, store: IdempotencyStore, hold: KeyHold, data: bytes = b"{}") -> Answer:
        [answer] = await store.fail([KeyEnd(hold=hold, data=data)])
        return answer

    async def release(self, store: IdempotencyStore, hold: KeyHold) -> Answer:
        [answer] = await store.release([hold])
        return answer

    async def renew(
        self, store: IdempotencyStore, hold: KeyHold, lease: timedelta = LONG
    ) -> Answer:
        [answer] = await store.renew([hold], lease)
        return answer
