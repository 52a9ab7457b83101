"""Hands jobs from the ledger to the broker, when they may run and somebody will take them."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from jobbus.store import Outbox, Ticket

from .bundles import Bundles, divided, message_of

SENDING: Final = timedelta(seconds=30)
"""A relay that has not sent within that time is taken to have died."""
TRAVELLING: Final = timedelta(minutes=2)
"""A message that has brought no worker its job within that time is taken to be lost."""
_COUNTED: Final = 5.0
"""Seconds for which a message that a waiting worker does not get still counts as on its way."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a relay did for a queue."""

    sent: int
    outstanding: int
    """What this relay has sent lately and no worker has started."""
    paused: bool


class Relay:
    """Keeps no more jobs with the broker than are asked for, so that the best are always next.

    What is asked for is the sum of the receives under way in this process (:meth:`wanting`), or a
    fixed number for a relay that serves other processes. Any number of relays share a ledger.
    """

    def __init__(
        self,
        ledger: Outbox,
        broker: Callable[[], Awaitable[Bundles]],
        *,
        window: int = 0,
        counted: float = _COUNTED,
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._window = window
        self._counted = counted
        self._wanted: defaultdict[str, int] = defaultdict(int)
        self._sent: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._steps: set[asyncio.Task[Step]] = set()

    @contextmanager
    def wanting(self, queue: str, number: int) -> Iterator[None]:
        """Within it, so many jobs of the queue will be taken at once."""
        self._wanted[queue] += number
        try:
            yield
        finally:
            self._wanted[queue] -= number

    async def step(self, queue: str) -> Step:
        """Look after what fell due, and hand over what is wanted of this queue.

        Raises what the broker raises; then what it did not take is back in the ledger. Cancelling
        does not stop a step half-way.
        """
        task = asyncio.ensure_future(self._step(queue))
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return await asyncio.shield(task)

    async def follow(self, queue: str, seen: int) -> None:
        """A step whenever there is news since ``seen``, or time to look; until cancelled."""
        while True:
            await self._ledger.await_news(seen, timedelta(seconds=1))
            seen = self._ledger.news
            await self.step(queue)

    async def finish(self) -> None:
        """Until no step is under way. Their errors were their callers'."""
        await asyncio.gather(*self._steps, return_exceptions=True)

    async def _step(self, queue: str) -> Step:
        async with self._turns[queue]:
            await self._ledger.look_after()
            sent = self._sent[queue]
            horizon = time.monotonic() - self._counted
            for claim in [claim for claim, at in sent.items() if at < horizon]:
                del sent[claim]
            handed = await self._ledger.hand_over(
                queue,
                limit=self._window + self._wanted[queue],
                within=SENDING,
                beside=list(sent),
            )
            for claim in handed.spent:
                sent.pop(claim, None)
            if handed.claim is not None:
                sent[handed.claim] = time.monotonic()
                await self._send(queue, handed.tickets, handed.claim)
            return Step(len(handed.tickets), handed.outstanding, handed.paused)

    async def _send(self, queue: str, tickets: Sequence[Ticket], claim: int) -> None:
        waiting = list(tickets)
        try:
            broker = await self._broker()
            ranked = broker.capabilities.priorities
            # What is for other processes goes one by one: they take as many messages as they have
            # slots.
            groups = [[t] for t in waiting] if ranked or self._window else divided(waiting)
            size = broker.capabilities.max_batch or len(groups)
            for start in range(0, len(groups), size):
                some = groups[start : start + size]
                await broker.enqueue([message_of(queue, each, ranked=ranked) for each in some])
                del waiting[: sum(map(len, some))]
        finally:
            # What a failed call may have sent all the same is sent twice, and started once.
            if waiting:
                await self._ledger.put_back(claim, _ids(waiting))
        await self._ledger.handed_over(claim, within=TRAVELLING)


def _ids(tickets: Sequence[Ticket]) -> list[str]:
    return [ticket.job_id for ticket in tickets]
