"""The connections of a pool that were used last, which are the ones to use next."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

_VISIT: Final = 60.0
"""Seconds after which a connection goes by its pool, which replaces old and drops spare ones."""
_IDLE: Final = TransactionStatus.IDLE


class Lent(NamedTuple):
    """A connection out of the pool."""

    connection: AsyncConnection[Any]
    visit: float
    """When it is to go back there, on the monotonic clock."""


class WarmConnections:
    """Hands out the connection that came back last, and asks the pool only where there is none.

    A pool hands out the one that has rested longest. Each statement then meets a server process
    whose caches others have used meanwhile, and that has yet to plan what its neighbours know.
    """

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        self._pool = pool
        self._resting: list[Lent] = []
        """The last is the warmest."""
        self._waiting = 0
        self._closed = False

    async def take(self) -> Lent:
        """One for the caller alone, to be given back; raises what the pool raises."""
        if self._resting:
            return self._resting.pop()
        self._waiting += 1
        try:
            return Lent(await self._pool.getconn(), time.monotonic() + _VISIT)
        finally:
            self._waiting -= 1

    async def give_back(self, lent: Lent) -> None:
        """Keep it for the next, or leave it to the pool: whoever waits there waits for that."""
        now = time.monotonic()
        idle = lent.connection.pgconn.transaction_status == _IDLE
        if idle and now < lent.visit and not (self._waiting or self._closed):
            self._resting.append(lent)
        else:
            await self._pool.putconn(lent.connection)
        if self._resting and self._resting[0].visit <= now:
            await self._pool.putconn(self._resting.pop(0).connection)

    async def close(self, seconds: float) -> None:
        """Close the pool with all connections; what is lent is closed when it is given back."""
        self._closed = True
        while self._resting:
            await self._pool.putconn(self._resting.pop().connection)
        await self._pool.close(timeout=seconds)
