"""The local queue between fetching and running: deliveries that wait for a free slot."""

from __future__ import annotations

import asyncio
from collections import deque

from .held import Held


class Backlog:
    """First in, first out. Suspects wait apart, for the one slot that runs them one at a time."""

    def __init__(self) -> None:
        self._plain: deque[Held] = deque()
        self._suspects: deque[Held] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._plain) + len(self._suspects)

    def put(self, held: Held) -> None:
        if held.delivery.crashes:
            self._suspects.append(held)
            self._wake(len(self._waiters))  # only one slot takes suspects: let it see
        else:
            self._plain.append(held)
            self._wake(1)

    async def get(self, *, suspects: bool) -> Held | None:
        """The next delivery for a slot; None when the backlog is closed and empty."""
        while True:
            if suspects and self._suspects:
                return self._suspects.popleft()
            if self._plain:
                return self._plain.popleft()
            if self._closed:
                return None
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(1)  # its wake-up is another's now
                raise

    def drain(self) -> list[Held]:
        """Take everything that has not started."""
        taken = [*self._plain, *self._suspects]
        self._plain.clear()
        self._suspects.clear()
        return taken

    def close(self) -> None:
        """Let the slots go home."""
        self._closed = True
        self._wake(len(self._waiters))

    def _wake(self, number: int) -> None:
        while number and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                number -= 1
