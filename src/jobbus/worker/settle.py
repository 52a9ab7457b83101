"""Tells the queue what became of deliveries: the only caller of its settling verbs.

Outcomes gather while one batch is on its way, and then travel together: under load batches grow by
themselves, and a lone outcome waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from jobbus.errors import BackendError, BackendFull, BackendUnavailable
from jobbus.job import Progress
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery
from jobbus.middleware.idempotency import Idempotency
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore

from .held import Held, Holdings, Settlement

log = logging.getLogger("jobbus.worker")

Verb = Callable[[Sequence[Any]], Awaitable[Sequence[Delivery]]]
MAX_BATCH: Final = 1000
_KEYS_TOGETHER: Final = 500
"""Keys in one request to their store."""
_PAUSE_CAP: Final = 5.0


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
        guard: Idempotency | None = None,
    ) -> None:
        self._store = store
        self._longest_delay = queue.capabilities.max_delay or timedelta.max
        self._holdings = holdings
        self._on_lost = on_lost
        self._on_settled = on_settled
        self._on_progress = on_progress
        self._guard = guard
        self._unrecorded: list[tuple[Held, Completion]] = []
        self._recorder: asyncio.Task[None] | None = None
        self._recording: set[asyncio.Task[None]] = set()
        self._verbs: Sequence[tuple[type[Settlement], Verb]] = (
            (Completion, queue.complete),
            (Abandonment, queue.abandon),
            (DeadLetter, queue.dead_letter),
        )
        self._buffer: list[Held] = []
        self._flushing = 0
        self._reporting = asyncio.Lock()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        waiting = len(self._buffer) + len(self._unrecorded)
        return waiting + self._flushing + len(self._recording)

    def submit(self, held: Held, settlement: Settlement) -> None:
        """Take an outcome. Returns at once; the delivery stays held until it has been told."""
        held.finished = True
        guard = self._guard
        if guard is not None and held.ahead is not None:
            # First the key: who gets the job next must find it free.
            self._beside(self._let_key_go(guard, held, settlement))
        elif (
            guard is not None
            and isinstance(settlement, Completion)
            and guard.to_record(held, settlement)
        ):
            # Beside the slots, so that successes of one moment are recorded together.
            self._idle.clear()
            self._unrecorded.append((held, settlement))
            if self._recorder is None:
                self._recorder = asyncio.create_task(self._record_keys(guard))
        else:
            self._buffer_up(held, settlement)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        self._idle.clear()
        task = asyncio.create_task(work)
        self._recording.add(task)
        task.add_done_callback(self._recorded)

    async def _let_key_go(self, guard: Idempotency, held: Held, settlement: Settlement) -> None:
        await guard.let_go(held)
        self._buffer_up(held, settlement)

    async def _record_keys(self, guard: Idempotency) -> None:
        """Let the store of keys know of successes, and only then the queue (D-7)."""
        try:
            while batch := self._unrecorded[:_KEYS_TOGETHER]:
                try:
                    kept = await guard.record_together(batch)
                except Exception:
                    # Each by itself repeats it, for as long as its own key is surely ours.
                    for held, done in batch:
                        self._beside(self._record_key(guard, held, done))
                else:
                    for (held, _), settlement in zip(batch, kept, strict=True):
                        self._hand_on(held, settlement)
                del self._unrecorded[: len(batch)]
        finally:
            self._recorder = None
            self._rest_if_idle()

    async def _record_key(self, guard: Idempotency, held: Held, done: Completion) -> None:
        try:
            kept = await guard.record(held, done)
        except Exception:
            log.exception("the key of job %s could not be completed", held.delivery.job_id)
            kept = None
        self._hand_on(held, kept)

    def _hand_on(self, held: Held, settlement: Settlement | None) -> None:
        if settlement is None:
            self.drop(held)
            self._on_lost(held.delivery)
        else:
            self._buffer_up(held, settlement)

    def _recorded(self, task: asyncio.Task[None]) -> None:
        self._recording.discard(task)
        self._rest_if_idle()

    def _rest_if_idle(self) -> None:
        if not self.pending:
            self._idle.set()

    def _buffer_up(self, held: Held, settlement: Settlement) -> None:
        if type(settlement) is Abandonment and settlement.delay > self._longest_delay:
            # Back sooner than asked, to be put off again: better than not at all.
            settlement = replace(settlement, delay=self._longest_delay)
        held.settlement = settlement
        if not self._buffer:
            self._idle.clear()
            self._wake.set()
        self._buffer.append(held)

    def drop(self, held: Held) -> None:
        """Forget a delivery that is not ours any more."""
        held.finished = True
        self._holdings.remove([held])
        if self._guard is not None and held.ahead is not None:
            self._beside(self._guard.let_go(held))

    async def run(self) -> None:
        """Flush until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._buffer:
                    batch = self._buffer[:MAX_BATCH]
                    del self._buffer[:MAX_BATCH]
                    self._flushing = len(batch)
                    await self._flush(batch)
                    self._flushing = 0
                self._rest_if_idle()
        finally:
            for task in (*self._recording, self._recorder):
                if task is not None:
                    task.cancel()

    async def flushed(self) -> None:
        """Until nothing is left to tell."""
        await self._idle.wait()

    async def report_progress(self) -> None:
        """Write the progress that handlers reported since the last time."""
        async with self._reporting:
            reports = self._reports(self._holdings.snapshot())
            if reports and self._store is not None:
                await self._store.record_progress([(h.delivery, word) for h, word in reports])
                self._reported(reports)

    async def _flush(self, batch: Sequence[Held]) -> None:
        # A job's last word must not arrive after its end: then the store would drop it.
        async with self._reporting:
            reports = self._reports(batch)
            if reports and self._store is not None:
                store, words = self._store, [(h.delivery, word) for h, word in reports]
                await self._insist(batch, lambda: _nothing_lost(store.record_progress(words)))
                self._reported(reports)
        lost: list[Delivery] = []
        for kind, verb in self._verbs:
            those = [held for held in batch if type(held.settlement) is kind]
            if those:
                lost += await self._record(those, verb)
        for delivery in lost:
            self._on_lost(delivery)
        self._holdings.remove(batch)
        refused = {id(delivery) for delivery in lost}
        for held in batch:
            if held.notice is not None and id(held.delivery) not in refused:
                self._on_settled(held)

    def _reports(self, held: Sequence[Held]) -> list[tuple[Held, Progress]]:
        """The latest word of each that has one which was not written yet."""
        latest = ((one, one.progress) for one in held)
        return [(one, word) for one, word in latest if word is not None and word is not one.told]

    def _reported(self, reports: Sequence[tuple[Held, Progress]]) -> None:
        for one, word in reports:
            one.told = word
            self._on_progress(one, word)

    async def _record(self, several: Sequence[Held], verb: Verb) -> Sequence[Delivery]:
        """Tell the queue; if it cannot take a batch, find out which outcome it cannot take."""
        try:
            return await self._insist(several, lambda: verb([h.settlement for h in several]))
        except BackendError as error:
            if len(several) == 1:
                job_id = several[0].delivery.job_id
                log.error("the outcome of job %s cannot be recorded: %s", job_id, error)
                return []
        middle = len(several) // 2
        first = await self._record(several[:middle], verb)
        return [*first, *await self._record(several[middle:], verb)]

    async def _insist(
        self, several: Sequence[Held], call: Callable[[], Awaitable[Sequence[Delivery]]]
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
                if all(held.valid_until < time.monotonic() for held in several):
                    log.error("%d outcomes could not be recorded in time: %s", len(several), error)
                    return []
                log.warning("recording %d outcomes failed, trying again: %s", len(several), error)
                pause = min(_PAUSE_CAP, 0.1 * 2.0 ** min(failures, 10))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter


async def _nothing_lost(call: Awaitable[None]) -> Sequence[Delivery]:
    await call
    return []
