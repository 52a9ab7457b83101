"""Keeps the leases of what this worker holds, from a thread and a connection of its own.

A handler that blocks the event loop must not lose its job for it; a worker that cannot renew must
know by itself that its leases are over.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from jobbus.errors import BackendError
from jobbus.message import Delivery, LeaseState
from jobbus.middleware.idempotency import Idempotency
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore

from .ending import end
from .held import Held, Holdings, margin
from .keys import KeyKeeper

log = logging.getLogger("jobbus.worker")

_TICK: Final = 1.0
"""Seconds between looks for cancellation requests and leases that ran out."""
_PAGE: Final = 1000


class Heartbeat:
    """Renews, fences, and carries cancellation requests in.

    ``on_lost`` and ``on_cancel`` are called on the worker's event loop.
    """

    def __init__(
        self,
        queue: BackgroundJobQueue,
        holdings: Holdings,
        lease: timedelta,
        *,
        on_lost: Callable[[Held], None],
        on_cancel: Callable[[Held], None],
        guard: Idempotency | None = None,
    ) -> None:
        self._queue = queue
        self._holdings = holdings
        self._lease = lease
        self._keys = KeyKeeper(guard.store, holdings, lease, self._tell_lost) if guard else None
        self._on_lost = on_lost
        self._on_cancel = on_cancel
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobbus-heartbeat", daemon=True)
        self._ready = asyncio.Event()
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Connect; raises what connecting raises."""
        self._thread.start()
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """End the thread. Leases are kept no longer."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 10)

    # on the heartbeat's own thread

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        queue = self._queue.separate()
        try:
            await queue.open()
        except BaseException as error:
            self._failure = error
            self._loop.call_soon_threadsafe(self._ready.set)
            return
        self._loop.call_soon_threadsafe(self._ready.set)
        beside = [asyncio.create_task(self._keep_fencing())]
        if self._keys is not None:
            beside.append(asyncio.create_task(self._keys.run()))
        try:
            await self._keep_beating(queue)
        finally:
            await end(beside)
            await queue.close()

    async def _keep_beating(self, queue: BackgroundJobQueue) -> None:
        interval = self._lease.total_seconds() / 3
        next_renewal = time.monotonic() + interval
        tick = min(_TICK, interval)
        while not await self._stopped_within(tick):
            held = self._holdings.snapshot()
            try:
                if time.monotonic() >= next_renewal:
                    await self._renew(queue, held)
                    next_renewal = time.monotonic() + interval
                elif isinstance(queue, JobStore):
                    await self._see_cancellations(queue, held)
            except BackendError as error:
                log.warning("the heartbeat could not renew leases, trying again: %s", error)
            except Exception:
                log.exception("the heartbeat failed; it goes on")

    async def _stopped_within(self, seconds: float) -> bool:
        # Not a sleep: a worker that ends must not wait for the rest of a tick.
        return await asyncio.to_thread(self._stop.wait, seconds)

    async def _renew(self, queue: BackgroundJobQueue, held: Sequence[Held]) -> None:
        for start in range(0, len(held), _PAGE):
            page = held[start : start + _PAGE]
            # The lease counts from before the call: the reply may be late.
            valid_until = time.monotonic() + (self._lease - margin(self._lease)).total_seconds()
            states = await queue.extend([h.delivery for h in page], self._lease)
            for one, state in zip(page, states, strict=True):
                if state is LeaseState.LOST:
                    self._tell_lost(one)
                    continue
                one.valid_until = max(one.valid_until, valid_until)
                if state is LeaseState.CANCEL_REQUESTED:
                    self._tell_cancelled(one)

    async def _see_cancellations(self, store: JobStore, held: Sequence[Held]) -> None:
        asked_of = [h for h in held if not h.finished and not h.must_stop]
        running: list[Delivery] = [h.delivery for h in asked_of if h.started_at is not None]
        if not running:
            return
        cancelled = await store.cancel_requested(running[:_PAGE])
        for one in asked_of:
            if one.delivery.job_id in cancelled:
                self._tell_cancelled(one)

    async def _keep_fencing(self) -> None:
        """Give up what could not be renewed in time, however long a renewal may hang."""
        tick = min(_TICK, margin(self._lease).total_seconds() / 4)
        seen: set[Held] = set()
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            lapsed = {
                one
                for one in self._holdings.snapshot()
                if one.lapsed(now) and not one.lost and not one.finished
            }
            # At the second look only: who was frozen may find that the lease is still its own.
            for one in lapsed & seen:
                log.error(
                    "the lease of job %s could not be renewed in time; its result is discarded",
                    one.delivery.job_id,
                )
                self._tell_lost(one)
            seen = lapsed

    def _tell_lost(self, held: Held) -> None:
        if not held.finished:
            held.lost = True
            self._loop.call_soon_threadsafe(self._on_lost, held)

    def _tell_cancelled(self, held: Held) -> None:
        if not held.cancel_requested:
            held.cancel_requested = True
            self._loop.call_soon_threadsafe(self._on_cancel, held)
