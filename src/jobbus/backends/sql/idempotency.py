"""Idempotency keys in the database of the jobs themselves: programs, and the store that runs them.

Being in that database, a key can be completed in the very transaction that holds the handler's
writes and the job's completion (D-11, D-13).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from jobbus.errors import BackendUnavailable
from jobbus.idempotency.store import (
    Answer,
    KeyClaim,
    KeyEnd,
    KeyHold,
    KeyRecord,
    KeyState,
    Reply,
)

from . import callers
from .moving import column
from .program import Call, Many, Program, Row

if TYPE_CHECKING:
    from .ledger import SqlLedger

T = TypeVar("T")


class SqlIdempotencyStore:
    """Keys in the table ``background_job_idempotency``, on the connections of a queue."""

    def __init__(self, queue: SqlLedger, ttl: timedelta, *, owned: bool = False) -> None:
        """``owned`` says that the queue is this store's own, to open and to close."""
        self._queue = queue
        self._ttl = ttl
        self._owned = owned
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        with contextlib.suppress(BackendUnavailable):  # the first request tries again
            await self._ensure_open()

    async def close(self) -> None:
        if self._owned:
            await self._queue.close()

    def separate(self) -> Self:
        return type(self)(self._queue.separate(), self._ttl, owned=True)

    async def begin(self, claims: Sequence[KeyClaim], lease: timedelta) -> Sequence[Reply]:
        return await self._run(lambda: _begin(claims, _milliseconds(lease), self._ttl_ms), claims)

    async def renew(self, holds: Sequence[KeyHold], lease: timedelta) -> Sequence[Answer]:
        parameters = {"lease_ms": _milliseconds(lease), "ttl_ms": self._ttl_ms}

        def make() -> Program[list[Answer]]:
            rows = yield Many("renew_keys", [_hold(one) for one in holds], parameters)
            kept = set(rows)
            return [Answer.OK if _mine(one) in kept else Answer.LOST for one in holds]

        return await self._run(make, holds)

    async def complete(
        self, ends: Sequence[KeyEnd], *, connection: Any | None = None
    ) -> Sequence[Answer]:
        make = self._finishing(ends, KeyState.COMPLETED)
        if connection is not None:
            return await callers.run(make, connection, self._queue.caller_sql)
        return await self._run(make, ends)

    def complete_sync(self, ends: Sequence[KeyEnd], connection: Any) -> Sequence[Answer]:
        """:meth:`complete` in the transaction of a synchronous connection."""
        make = self._finishing(ends, KeyState.COMPLETED)
        return callers.run_sync(make, connection, self._queue.caller_sql)

    async def fail(self, ends: Sequence[KeyEnd]) -> Sequence[Answer]:
        return await self._run(self._finishing(ends, KeyState.FAILED), ends)

    async def release(self, holds: Sequence[KeyHold]) -> Sequence[Answer]:
        return await self._run(lambda: _release(holds, self._ttl_ms), holds)

    async def look(self, keys: Sequence[str]) -> Sequence[KeyRecord | None]:
        def make() -> Program[list[KeyRecord | None]]:
            found = yield from _find(keys)
            return [_record(found[key]) if key in found else None for key in keys]

        return await self._run(make, keys, write=False)

    async def reopen(self, keys: Sequence[str]) -> None:
        def make() -> Program[list[None]]:
            yield Call("reopen_keys", {"keys": list(keys), "ttl_ms": self._ttl_ms})
            return []

        await self._run(make, keys)

    async def prune(self, *, limit: int = 1000) -> int:
        def make() -> Program[list[str]]:
            rows = yield Call("prune_keys", {"limit": limit})
            return column(rows)

        return len(await self._run(make, [limit]))

    async def concerns(self) -> Sequence[str]:
        return ()

    async def _ensure_open(self) -> None:
        if self._owned:
            async with self._opening:
                await self._queue.open()

    @property
    def _ttl_ms(self) -> int:
        return _milliseconds(self._ttl)

    def _finishing(self, ends: Sequence[KeyEnd], state: KeyState) -> Callable[[], Program[Any]]:
        return lambda: _finish(ends, state, self._ttl_ms)

    async def _run(
        self, make: Callable[[], Program[list[T]]], asked: Sequence[object], *, write: bool = True
    ) -> list[T]:
        if not asked:
            return []
        await self._ensure_open()
        return await self._queue.run_program(make, write=write)


def _begin(claims: Sequence[KeyClaim], lease_ms: int, ttl_ms: int) -> Program[list[Reply]]:
    replies: dict[KeyClaim, Reply] = {}
    for some in _once_each(claims):
        rows = yield Many(
            "begin_keys", [_claim(one) for one in some], {"lease_ms": lease_ms, "ttl_ms": ttl_ms}
        )
        by_key = {row[0]: row for row in rows}
        replies |= {one: _reply(one, by_key[one.key]) for one in some}
    return [replies[one] for one in claims]


def _finish(ends: Sequence[KeyEnd], state: KeyState, ttl_ms: int) -> Program[list[Answer]]:
    batch = [
        {**_hold(end.hold), "fingerprint": end.hold.fingerprint, "result": end.data} for end in ends
    ]
    rows = yield Many("finish_keys", batch, {"state": str(state), "ttl_ms": ttl_ms})
    done = set(rows)
    found = yield from _find([end.hold.key for end in ends if _mine(end.hold) not in done])
    return [
        Answer.OK if _mine(end.hold) in done else _refusal(end, found.get(end.hold.key), state)
        for end in ends
    ]


def _refusal(end: KeyEnd, row: Row | None, state: KeyState) -> Answer:
    """Why an outcome changed nothing. Recorded by the same hold before, it is true already."""
    if row is None:
        return Answer.GONE
    if row[5] != end.hold.fingerprint:
        return Answer.MISMATCH
    repeated = row[1] == state and row[2] == end.hold.owner and row[3] == end.hold.fence
    return Answer.OK if repeated else Answer.FENCED


def _release(holds: Sequence[KeyHold], ttl_ms: int) -> Program[list[Answer]]:
    rows = yield Many("release_keys", [_hold(one) for one in holds], {"ttl_ms": ttl_ms})
    done = set(rows)
    found = yield from _find([one.key for one in holds if _mine(one) not in done])
    return [
        Answer.OK if _mine(one) in done else _not_released(one, found.get(one.key)) for one in holds
    ]


def _not_released(hold: KeyHold, row: Row | None) -> Answer:
    if row is None:
        return Answer.GONE
    repeated = row[1] == KeyState.RELEASED and row[3] == hold.fence
    return Answer.OK if repeated else Answer.FENCED


def _find(keys: Sequence[str]) -> Program[dict[str, Row]]:
    if not keys:
        return {}
    rows = yield Call("find_keys", {"keys": list(keys)})
    return {row[0]: row for row in rows}


def _once_each(claims: Sequence[KeyClaim]) -> Iterator[list[KeyClaim]]:
    """The batch in parts that name no key twice: one statement inserts a row only once."""
    left = list(dict.fromkeys(claims))
    while left:
        now = {one.key: one for one in reversed(left)}
        yield list(now.values())
        left = [one for one in left if now[one.key] is not one]


def _claim(claim: KeyClaim) -> dict[str, Any]:
    return {
        "key": claim.key,
        "owner": claim.owner,
        "fingerprint": claim.fingerprint,
        "job_id": claim.job_id,
        "max_crashes": claim.max_crashes,
    }


def _hold(hold: KeyHold) -> dict[str, Any]:
    return {"key": hold.key, "owner": hold.owner, "fence": hold.fence}


def _mine(hold: KeyHold) -> tuple[str, str]:
    """What comes back of a key that was changed: one batch may name it under several owners."""
    return hold.key, hold.owner


def _reply(claim: KeyClaim, row: Row) -> Reply:
    _, state, owner, fence, crashes, stolen, fingerprint, job_id, data, left_ms = row
    if fingerprint != claim.fingerprint:
        return Reply(answer=Answer.MISMATCH, fence=fence)
    if state in (KeyState.COMPLETED, KeyState.FAILED):
        record = KeyRecord(
            state=KeyState(state),
            fence=fence,
            crashes=crashes,
            fingerprint=fingerprint,
            job_id=job_id,
            data=data,
        )
        return Reply(answer=Answer.DONE, fence=fence, record=record)
    if owner == claim.owner:
        return Reply(answer=Answer.STOLEN if stolen else Answer.ACQUIRED, fence=fence)
    if not owner:
        return Reply(answer=Answer.POISON, fence=fence)
    wait = timedelta(milliseconds=max(left_ms, 1))
    return Reply(answer=Answer.BUSY, fence=fence, wait=wait)


def _record(row: Row) -> KeyRecord:
    _, state, _, fence, crashes, fingerprint, job_id, data = row
    return KeyRecord(
        state=KeyState(state),
        fence=fence,
        crashes=crashes,
        fingerprint=fingerprint,
        job_id=job_id,
        data=data,
    )


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
