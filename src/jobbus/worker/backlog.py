"""The local queue between fetching and running: deliveries that wait for a free slot."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from .held import Held

_TURN: Final = 0.001
"""Seconds that slots may run short jobs one after the other before everything else has its turn."""
_ROUSED: Final = 2
"""Slots woken at a time: each wakes as many when its own handler waits, so that all are soon up."""


class Backlog:
    """First in, first out. Suspects wait apart, for the one slot that runs them one at a time.

    A slot is woken only when those that are awake wait within their handlers: a handler that never
    waits leaves the next job to the same slot, which costs a job far less than waking another.
    """

    def __init__(self) -> None:
        self._plain: deque[Held] = deque()
        self._suspects: deque[Held] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._between_jobs = 0
        """Slots that have given way, and will be back for the next job by themselves."""
        self._rousing = False
        self._turn_ends = 0.0
        self._turn_asked = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._plain) + len(self._suspects)

    def put(self, several: Sequence[Held]) -> None:
        for held in several:
            if held.delivery.crashes:
                self._suspects.append(held)
            else:
                self._plain.append(held)
        # Only one slot takes suspects: let it see.
        self._wake(len(self._waiters) if self._suspects else _ROUSED)

    async def get(self, *, suspects: bool) -> Held | None:
        """The next delivery for a slot; None when the backlog is closed and empty."""
        while True:
            if suspects and self._suspects:
                return self._suspects.popleft()
            if self._plain:
                held = self._plain.popleft()
                if self._plain and self._waiters and not self._rousing:
                    self._rousing = True
                    asyncio.get_running_loop().call_soon(self._rouse)
                return held
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

    async def give_way(self, now: float) -> None:
        """Between two jobs of a slot: let the rest of the process run when the turn is over."""
        if now < self._turn_ends:
            return
        if not self._turn_asked:
            self._turn_asked = True
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._between_jobs += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._between_jobs -= 1

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

    def _begin_turn(self) -> None:
        # One turn for all slots: many of them must not each take a whole one.
        self._turn_asked = False
        self._turn_ends = time.monotonic() + _TURN

    def _rouse(self) -> None:
        """The slot that asked for this waits, within its handler or between two jobs."""
        self._rousing = False
        if self._plain and not self._between_jobs:
            self._wake(_ROUSED)

    def _wake(self, number: int) -> None:
        while number and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                number -= 1
