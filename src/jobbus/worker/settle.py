"""Tells the queue what became of deliveries: the only caller of its settling verbs.

Outcomes gather while one batch is on its way, and then travel together: under load batches grow by
themselves, and a lone outcome waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from jobbus.errors import BackendError, BackendFull, BackendUnavailable
from jobbus.job import Progress
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore

from .held import Held, Holdings

log = logging.getLogger("jobbus.worker")

Settlement = Completion | Abandonment | DeadLetter
Verb = Callable[[Sequence[Any]], Awaitable[Sequence[Delivery]]]
MAX_BATCH: Final = 1000
_PAUSE_CAP: Final = 5.0


@dataclass(slots=True, frozen=True)
class _Item:
    held: Held
    settlement: Settlement


class Settler:
    """Buffers settlements and flushes them in batches."""

    def __init__(
        self,
        queue: BackgroundJobQueue,
        store: JobStore | None,
        holdings: Holdings,
        *,
        on_lost: Callable[[Delivery], None],
        on_settled: Callable[[Held], None],
        on_progress: Callable[[Held, Progress], None],
    ) -> None:
        self._store = store
        self._longest_delay = queue.capabilities.max_delay or timedelta.max
        self._holdings = holdings
        self._on_lost = on_lost
        self._on_settled = on_settled
        self._on_progress = on_progress
        self._verbs: Sequence[tuple[type[Settlement], Verb]] = (
            (Completion, queue.complete),
            (Abandonment, queue.abandon),
            (DeadLetter, queue.dead_letter),
        )
        self._buffer: list[_Item] = []
        self._flushing = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        return len(self._buffer) + self._flushing

    def submit(self, held: Held, settlement: Settlement) -> None:
        """Take an outcome. Returns at once; the delivery stays held until it has been told."""
        held.finished = True
        if isinstance(settlement, Abandonment) and settlement.delay > self._longest_delay:
            # Back sooner than asked, to be put off again: better than not at all.
            settlement = replace(settlement, delay=self._longest_delay)
        self._buffer.append(_Item(held, settlement))
        self._idle.clear()
        self._wake.set()

    def drop(self, held: Held) -> None:
        """Forget a delivery that is not ours any more."""
        held.finished = True
        self._holdings.remove(held)

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._buffer:
                batch = self._buffer[:MAX_BATCH]
                del self._buffer[:MAX_BATCH]
                self._flushing = len(batch)
                await self._flush(batch)
                self._flushing = 0
            self._idle.set()

    async def flushed(self) -> None:
        """Until nothing is left to tell."""
        await self._idle.wait()

    async def report_progress(self) -> None:
        """Write the progress that handlers reported since the last time."""
        reports = self._reports(self._holdings.snapshot())
        if reports and self._store is not None:
            await self._store.record_progress(reports)

    async def _flush(self, batch: Sequence[_Item]) -> None:
        reports = self._reports([item.held for item in batch])
        if reports and self._store is not None:
            store = self._store
            await self._insist(batch, lambda: _nothing_lost(store.record_progress(reports)))
        lost: list[Delivery] = []
        for kind, verb in self._verbs:
            items = [item for item in batch if isinstance(item.settlement, kind)]
            if items:
                lost += await self._record(items, verb)
        for delivery in lost:
            self._on_lost(delivery)
        refused = {id(delivery) for delivery in lost}
        for item in batch:
            self._holdings.remove(item.held)
            if item.held.notice is not None and id(item.held.delivery) not in refused:
                self._on_settled(item.held)

    def _reports(self, held: Sequence[Held]) -> list[tuple[Delivery, Progress]]:
        """Take the latest word of each, leaving none."""
        reports = []
        for one in held:
            if one.progress:
                latest = one.progress[-1]
                del one.progress[:]
                reports.append((one.delivery, latest))
                self._on_progress(one, latest)
        return reports

    async def _record(self, items: Sequence[_Item], verb: Verb) -> Sequence[Delivery]:
        """Tell the queue; if it cannot take a batch, find out which outcome it cannot take."""
        try:
            return await self._insist(items, lambda: verb([item.settlement for item in items]))
        except BackendError as error:
            if len(items) == 1:
                job_id = items[0].held.delivery.job_id
                log.error("the outcome of job %s cannot be recorded: %s", job_id, error)
                return []
        middle = len(items) // 2
        first = await self._record(items[:middle], verb)
        return [*first, *await self._record(items[middle:], verb)]

    async def _insist(
        self, items: Sequence[_Item], call: Callable[[], Awaitable[Sequence[Delivery]]]
    ) -> Sequence[Delivery]:
        """Repeat a call over outages, until it succeeds or no lease is left to report under.

        Settling twice is settling once, so a reply that got lost is no reason to stop.
        """
        failures = 0
        while True:
            try:
                return await call()
            except (BackendUnavailable, BackendFull) as error:
                failures += 1
                if all(item.held.valid_until < time.monotonic() for item in items):
                    log.error("%d outcomes could not be recorded in time: %s", len(items), error)
                    return []
                log.warning("recording %d outcomes failed, trying again: %s", len(items), error)
                pause = min(_PAUSE_CAP, 0.1 * 2.0 ** min(failures, 10))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter


async def _nothing_lost(call: Awaitable[None]) -> Sequence[Delivery]:
    await call
    return []
