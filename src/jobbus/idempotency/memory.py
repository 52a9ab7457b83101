"""Idempotency keys in this process's memory: for tests, and for one process on a bare broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Self

from jobbus.errors import Unsupported
from jobbus.idempotency.store import (
    Answer,
    KeyClaim,
    KeyEnd,
    KeyHold,
    KeyRecord,
    KeyState,
    Reply,
)

_SWEEP: Final = 1000
"""New keys between two looks for those whose time is over."""


@dataclass(slots=True)
class _Key:
    fingerprint: str
    owner: str
    job_id: str
    lease_until: float
    expires_at: float
    state: KeyState = KeyState.IN_PROGRESS
    fence: int = 1
    crashes: int = 0
    data: bytes | None = None

    def record(self) -> KeyRecord:
        return KeyRecord(
            state=self.state,
            fence=self.fence,
            crashes=self.crashes,
            fingerprint=self.fingerprint,
            job_id=self.job_id,
            data=self.data,
        )

    def held_by(self, hold: KeyHold) -> bool:
        return self.owner == hold.owner and self.fence == hold.fence


@dataclass(slots=True)
class _Shared:
    """What all objects on one store share, whichever thread they are used on."""

    keys: dict[str, _Key] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    new: int = 0


class MemoryIdempotencyStore:
    """Keys that live as long as the process, and are seen by nobody outside it."""

    def __init__(
        self,
        ttl: timedelta = timedelta(days=7),
        *,
        clock: Callable[[], float] = time.monotonic,
        _shared: _Shared | None = None,
    ) -> None:
        """``clock`` gives seconds that never go back."""
        self._ttl = ttl
        self._clock = clock
        self._shared = _shared or _Shared()

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do: the keys belong to all who share the store."""

    def separate(self) -> Self:
        return type(self)(self._ttl, clock=self._clock, _shared=self._shared)

    async def begin(self, claims: Sequence[KeyClaim], lease: timedelta) -> Sequence[Reply]:
        with self._shared.lock:
            return [self._begin(claim, lease) for claim in claims]

    async def renew(self, holds: Sequence[KeyHold], lease: timedelta) -> Sequence[Answer]:
        with self._shared.lock:
            return [self._renew(hold, lease) for hold in holds]

    async def complete(
        self, ends: Sequence[KeyEnd], *, connection: Any | None = None
    ) -> Sequence[Answer]:
        if connection is not None:
            raise Unsupported("idempotency keys in memory cannot join a database's transaction")
        with self._shared.lock:
            return [self._end(end, KeyState.COMPLETED) for end in ends]

    async def fail(self, ends: Sequence[KeyEnd]) -> Sequence[Answer]:
        with self._shared.lock:
            return [self._end(end, KeyState.FAILED) for end in ends]

    async def release(self, holds: Sequence[KeyHold]) -> Sequence[Answer]:
        with self._shared.lock:
            return [self._release(hold) for hold in holds]

    async def look(self, keys: Sequence[str]) -> Sequence[KeyRecord | None]:
        with self._shared.lock:
            found = [self._find(key) for key in keys]
            return [None if one is None else one.record() for one in found]

    async def reopen(self, keys: Sequence[str]) -> None:
        with self._shared.lock:
            for one in map(self._find, keys):
                if one is not None and (one.state is KeyState.FAILED or self._abandoned(one)):
                    one.state, one.owner, one.crashes = KeyState.RELEASED, "", 0
                    one.data = None
                    self._touch(one)

    async def prune(self, *, limit: int = 1000) -> int:
        with self._shared.lock:
            return self._prune(limit)

    async def concerns(self) -> Sequence[str]:
        return (
            "idempotency keys are kept in this process's memory: no other worker process sees "
            "them, and a restart forgets them; set IDEMPOTENCY_STORE to redis or sql, with the "
            "address of one",
        )

    # under the lock

    def _begin(self, claim: KeyClaim, lease: timedelta) -> Reply:
        now = self._clock()
        one = self._find(claim.key)
        if one is None:
            return self._first(claim, now, lease)
        if one.fingerprint != claim.fingerprint:
            return Reply(answer=Answer.MISMATCH, fence=one.fence)
        if one.state in (KeyState.COMPLETED, KeyState.FAILED):
            return Reply(answer=Answer.DONE, fence=one.fence, record=one.record())
        answer = Answer.ACQUIRED
        if one.state is KeyState.RELEASED:
            one.fence += 1
        elif one.owner != claim.owner:
            if one.lease_until > now:
                wait = timedelta(seconds=one.lease_until - now)
                return Reply(answer=Answer.BUSY, fence=one.fence, wait=wait)
            one.fence += 1
            one.crashes += 1
            answer = Answer.STOLEN
        one.job_id = claim.job_id
        self._touch(one)
        if answer is Answer.STOLEN and one.crashes > claim.max_crashes:
            one.owner = ""  # nobody's: a repeated request must not pass for its owner's
            return Reply(answer=Answer.POISON, fence=one.fence)
        until = now + lease.total_seconds()
        one.lease_until = max(one.lease_until, until) if one.owner == claim.owner else until
        one.state, one.owner = KeyState.IN_PROGRESS, claim.owner
        return Reply(answer=answer, fence=one.fence)

    def _first(self, claim: KeyClaim, now: float, lease: timedelta) -> Reply:
        self._shared.new += 1
        if self._shared.new % _SWEEP == 0:
            self._prune(len(self._shared.keys))
        self._shared.keys[claim.key] = _Key(
            fingerprint=claim.fingerprint,
            owner=claim.owner,
            job_id=claim.job_id,
            lease_until=now + lease.total_seconds(),
            expires_at=now + self._ttl.total_seconds(),
        )
        return Reply(answer=Answer.ACQUIRED, fence=1)

    def _renew(self, hold: KeyHold, lease: timedelta) -> Answer:
        one = self._find(hold.key)
        if one is None or one.state is not KeyState.IN_PROGRESS or not one.held_by(hold):
            return Answer.LOST
        one.lease_until = max(one.lease_until, self._clock() + lease.total_seconds())
        self._touch(one)
        return Answer.OK

    def _end(self, end: KeyEnd, state: KeyState) -> Answer:
        one = self._find(end.hold.key)
        if one is None:
            return Answer.GONE
        if one.fingerprint != end.hold.fingerprint:
            return Answer.MISMATCH
        if not one.held_by(end.hold) or one.state not in (KeyState.IN_PROGRESS, state):
            return Answer.FENCED
        if one.state is KeyState.IN_PROGRESS:
            one.state, one.data = state, end.data
            self._touch(one)
        return Answer.OK

    def _release(self, hold: KeyHold) -> Answer:
        one = self._find(hold.key)
        if one is None:
            return Answer.GONE
        if one.state is KeyState.IN_PROGRESS and one.held_by(hold):
            one.state, one.owner, one.lease_until = KeyState.RELEASED, "", 0.0
            self._touch(one)
            return Answer.OK
        repeated = one.state is KeyState.RELEASED and one.fence == hold.fence
        return Answer.OK if repeated else Answer.FENCED

    def _find(self, key: str) -> _Key | None:
        one = self._shared.keys.get(key)
        return None if one is None or one.expires_at <= self._clock() else one

    def _abandoned(self, one: _Key) -> bool:
        return one.state is KeyState.IN_PROGRESS and one.lease_until <= self._clock()

    def _touch(self, one: _Key) -> None:
        one.expires_at = self._clock() + self._ttl.total_seconds()

    def _prune(self, limit: int) -> int:
        now = self._clock()
        over = [key for key, one in self._shared.keys.items() if one.expires_at <= now][:limit]
        for key in over:
            del self._shared.keys[key]
        return len(over)
