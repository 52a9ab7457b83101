"""Takes deliveries from the queues: as many as the slots can use soon, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobbus.errors import BackendError, ConfigurationError
from jobbus.message import Delivery
from jobbus.queue import BackgroundJobQueue

from .ending import end
from .held import margin

if TYPE_CHECKING:
    from jobbus.bus import JobBus

log = logging.getLogger("jobbus.worker")

MAX_PREFETCH: Final = 2000
"""What a worker of very short jobs keeps at hand: work for the time that the next claim takes."""
LARGEST_CLAIM: Final = 1000
"""Larger ones gain nothing, and hold rows and replies for longer."""
_HORIZON: Final = 0.25
"""Seconds of work that may wait locally: so little that priorities hold and leases stay fresh."""
_SAMPLE: Final = 50
"""Finished jobs that are enough to tell the pace before the horizon has passed."""
_WAIT: Final = timedelta(seconds=20)
_NO_WAIT: Final = timedelta(0)
_SILENCE: Final = 60.0
"""Seconds without a delivery, while there is work, after which the connection is rebuilt."""


class Pace:
    """How fast this worker finishes jobs, and so how many may wait locally."""

    def __init__(self, limit: int = MAX_PREFETCH) -> None:
        self._limit = limit
        self._rate = 0.0
        self._finished = 0
        self._since = time.monotonic()

    def finished(self) -> None:
        self._finished += 1

    def prefetch(self) -> int:
        """What the slots will have done within the horizon, going by the last stretch."""
        now = time.monotonic()
        elapsed = now - self._since
        if self._finished >= _SAMPLE or elapsed >= _HORIZON:
            latest = self._finished / elapsed
            # Quick to slow down: waiting jobs belong to whoever has a slot.
            self._rate = latest if latest < self._rate else (self._rate + latest) / 2
            self._finished = 0
            self._since = now
        return min(self._limit, int(self._rate * _HORIZON))


class Fetcher:
    """One loop over all queues of a worker.

    Queues are asked in a random order in which heavier ones tend to come first, so that the
    lightest is served too.
    """

    def __init__(
        self,
        queue: BackgroundJobQueue,
        queues: Mapping[str, float],
        lease: timedelta,
        *,
        room: Callable[[], int],
        free: Callable[[], int],
        freed: asyncio.Event,
        deliver: Callable[[Sequence[Delivery], float], None],
    ) -> None:
        self._queue = queue
        self._queues = dict(queues)
        self._lease = lease
        self._room = room
        self._free = free
        self._freed = freed
        self._deliver = deliver
        self._last_delivery = time.monotonic()
        self.last_contact = time.monotonic()
        """When the queue last answered, with jobs or without; monotonic seconds."""
        self.empty = asyncio.Event()
        """Set while the last look at all queues found nothing."""

    @property
    def silence(self) -> float:
        """Seconds since the last delivery."""
        return time.monotonic() - self._last_delivery

    async def run(self) -> None:
        """Fetch until cancelled. What was on its way then goes back."""
        failures = 0
        while True:
            self._freed.clear()
            if self._room() <= 0:
                await self._freed.wait()
                continue
            try:
                await self._fetch_once()
                failures = 0
            except BackendError as error:
                failures += 1
                pause = min(30.0, 0.5 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
                log.warning("receiving failed, trying again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    async def _fetch_once(self) -> None:
        found = False
        for name in self._order():
            room = self._room()
            if room > 0:
                found |= await self._receive(name, min(room, LARGEST_CLAIM), _NO_WAIT) > 0
        if found:
            self.empty.clear()
            return
        self.empty.set()
        await self._watch_silence()
        await self._await_any()

    async def _await_any(self) -> None:
        """Wait at every queue; the first with something ends the wait at the others."""
        if len(self._queues) == 1:
            # What comes after a quiet time is for free slots: the pace of before tells nothing.
            await self._receive(next(iter(self._queues)), max(self._free(), 1), _WAIT)
            return
        waits = {asyncio.create_task(self._receive(name, 1, _WAIT)) for name in self._queues}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(waits)
        for wait in waits:
            if not wait.cancelled():
                wait.result()

    async def _receive(self, name: str, room: int, wait: timedelta) -> int:
        called = time.monotonic()
        deliveries = await self._queue.receive(name, limit=room, wait=wait, lease=self._lease)
        self.last_contact = time.monotonic()
        if deliveries:
            self._last_delivery = self.last_contact
            self.empty.clear()
            trusted = (self._lease - margin(self._lease)).total_seconds()
            since = deliveries[0].received_at
            self._deliver(deliveries, (called if since is None else since) + trusted)
        return len(deliveries)

    def _order(self) -> list[str]:
        return sorted(
            self._queues,
            key=lambda name: random.random() ** (1 / self._queues[name]),  # noqa: S311
            reverse=True,
        )

    async def _watch_silence(self) -> None:
        """Rebuild a connection that brings nothing although there is work.

        Being connected proves nothing; only deliveries do.
        """
        if self.silence < _SILENCE:
            return
        self._last_delivery = time.monotonic()
        for name in self._queues:
            if (await self._queue.get_queue_depth(name)).ready and not await self._paused(name):
                log.error("queue %s has work but brings none: reconnecting", name)
                with contextlib.suppress(BackendError):
                    await self._queue.close()
                await self._queue.open()
                return

    async def _paused(self, name: str) -> bool:
        from jobbus.store import JobStore

        if not isinstance(self._queue, JobStore):
            return False
        return any(status.paused for status in await self._queue.queues() if status.name == name)


def queue_weights(queues: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    weights = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, 1.0)
    for name, weight in weights.items():
        if weight <= 0:
            raise ConfigurationError(f"the weight of queue {name!r} must be above 0, not {weight}")
    return weights


def default_queues(bus: JobBus) -> dict[str, float]:
    names = [*bus.settings.queues, *(job_type.queue for job_type in bus.handlers)]
    return dict.fromkeys(names, 1.0)
