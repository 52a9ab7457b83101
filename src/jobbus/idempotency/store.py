"""The idempotency seam: who works under a key, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Protocol, Self, runtime_checkable

KEPT_RESULT: Final = 32 * 1024
"""Bytes of a result that are kept beside its key; a larger one stays with its job (D-8)."""


class KeyState(StrEnum):
    """Where a key stands. One that the store does not know is absent."""

    IN_PROGRESS = "in_progress"
    RELEASED = "released"
    """Free again after an attempt without an outcome; fence and crashes are remembered (D-6)."""
    COMPLETED = "completed"
    FAILED = "failed"


class Answer(StrEnum):
    """What the store says to one request."""

    ACQUIRED = "acquired"
    """The key is the caller's: run."""
    STOLEN = "stolen"
    """The same, from an owner whose lease ran out, which counts as a crash."""
    BUSY = "busy"
    """Somebody else works under the key."""
    POISON = "poison"
    """Too many owners have died under it."""
    DONE = "done"
    """The work has come to its end already."""
    MISMATCH = "mismatch"
    """The key was used for another payload."""
    OK = "ok"
    LOST = "lost"
    """To a renewal: the key is no longer the caller's."""
    FENCED = "fenced"
    """To an outcome: the key is no longer the caller's, and nothing was recorded."""
    GONE = "gone"
    """To an outcome: the store knows nothing of the key any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyClaim:
    """A request to work under a key."""

    key: str
    owner: str
    """Random, for this attempt alone: a repeated request is recognised by it."""
    fingerprint: str
    """Of what the key stands for; a key serves for one payload only."""
    job_id: str = ""
    max_crashes: int = 3
    """Owners that may die under the key; one more, and it is poison."""

    def held(self, fence: int) -> KeyHold:
        """The hold that the store granted with this fence."""
        return KeyHold(
            key=self.key,
            owner=self.owner,
            fence=fence,
            fingerprint=self.fingerprint,
            job_id=self.job_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHold:
    """A key in somebody's hands, until the lease runs out."""

    key: str
    owner: str
    fence: int
    """Counts owners; only ever grows while the store remembers the key."""
    fingerprint: str
    job_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEnd:
    """What came of the work under a key."""

    hold: KeyHold
    data: bytes | None = None
    """The encoded result, or the problem; None when it is not kept here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What a store remembers of a key."""

    state: KeyState
    fence: int
    crashes: int
    fingerprint: str
    job_id: str
    """Who worked under it last."""
    data: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, and what belongs to it."""

    answer: Answer
    fence: int = 0
    wait: timedelta = timedelta(0)
    """How long the other owner's lease still lasts, where the answer is BUSY."""
    record: KeyRecord | None = None
    """What is remembered, where the answer is DONE."""


class IdempotencyStore(Protocol):
    """Remembers, for every key, that work goes on under it or what came of it.

    The state table of ``docs/reference/idempotency.md`` is the specification, and
    :class:`jobbus.testing.IdempotencyConformance` proves it. Each request is one atomic
    compare-and-set by the store's own clock; a batch is one round trip, answered in order. Every
    change sets the time to live anew. Used from one event loop, by many tasks at once. An
    implementation does not retry, log or measure. A transient failure is ``BackendUnavailable``,
    a full store ``BackendFull``, anything else that the server says ``BackendError``.
    """

    async def open(self) -> None:
        """Make ready. A server that is away is not noticed here but at the first request."""
        ...

    async def close(self) -> None:
        """Let go of every connection. Harmless when repeated or never opened."""
        ...

    def separate(self) -> Self:
        """The same store on connections of its own, unopened, for another event loop or thread."""
        ...

    async def begin(self, claims: Sequence[KeyClaim], lease: timedelta) -> Sequence[Reply]:
        """ACQUIRED, STOLEN, BUSY, POISON, DONE or MISMATCH for each.

        Claiming again as the same owner is claiming once, so a lost reply may be asked for again.
        """
        ...

    async def renew(self, holds: Sequence[KeyHold], lease: timedelta) -> Sequence[Answer]:
        """Keep the keys for ``lease`` from now: OK or LOST for each. Never shortens a lease."""
        ...

    async def complete(
        self, ends: Sequence[KeyEnd], *, connection: Any | None = None
    ) -> Sequence[Answer]:
        """Record success: OK, FENCED, MISMATCH or GONE for each.

        Completing twice under one hold is completing once. With ``connection``, within that
        connection's transaction; ``Unsupported`` where the store is in no such database.
        """
        ...

    async def fail(self, ends: Sequence[KeyEnd]) -> Sequence[Answer]:
        """Record failure for good: OK, FENCED, MISMATCH or GONE for each."""
        ...

    async def release(self, holds: Sequence[KeyHold]) -> Sequence[Answer]:
        """Free the keys for the next attempt: OK, FENCED or GONE for each."""
        ...

    async def look(self, keys: Sequence[str]) -> Sequence[KeyRecord | None]:
        """What is remembered of each, changing nothing."""
        ...

    async def reopen(self, keys: Sequence[str]) -> None:
        """Let failed and poisoned keys be worked under again, for a redrive. Others stay."""
        ...

    async def prune(self, *, limit: int = 1000) -> int:
        """Delete up to ``limit`` keys whose time is over; return how many.

        Zero where the server does it by itself.
        """
        ...

    async def concerns(self) -> Sequence[str]:
        """What an operator should know of how safe the keys are here; empty when nothing."""
        ...


@runtime_checkable
class JoinsTransactions(Protocol):
    """A store in a database whose transactions callers can share."""

    def complete_sync(self, ends: Sequence[KeyEnd], connection: Any) -> Sequence[Answer]:
        """:meth:`IdempotencyStore.complete` in the transaction of a synchronous connection."""
        ...


@runtime_checkable
class KeepsKeys(Protocol):
    """A queue whose own database can keep idempotency keys."""

    def idempotency_store(self, ttl: timedelta) -> IdempotencyStore:
        """A store on the queue's own connections: open while the queue is."""
        ...
