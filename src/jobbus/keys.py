"""The idempotency store of a bus: chosen when it is first needed, one for each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobbus.job import JobState
from jobbus.message import IDEMPOTENCY_KEY
from jobbus.middleware.idempotency_keys import stored_key
from jobbus.store import JobFilter, JobStore

if TYPE_CHECKING:
    from jobbus.idempotency.store import IdempotencyStore
    from jobbus.queue import BackgroundJobQueue
    from jobbus.settings import Settings

_PAGE = 200


class Keys:
    """Holds the store that was given, or that the settings name."""

    def __init__(self, given: IdempotencyStore | None = None) -> None:
        self._given = given
        self._open: IdempotencyStore | None = None
        self._of: tuple[BackgroundJobQueue, asyncio.AbstractEventLoop] | None = None

    async def opened(self, settings: Settings, queue: BackgroundJobQueue) -> IdempotencyStore:
        """The store, for this event loop and beside this queue."""
        of = (queue, asyncio.get_running_loop())
        if self._open is None or self._of != of:
            self._open, self._of = self._choose(settings, queue), of
            await self._open.open()
        return self._open

    async def close(self) -> None:
        """Let go of the store's connections, if they are this loop's."""
        store, of = self._open, self._of
        self._open = self._of = None
        if store is not None and of is not None and of[1] is asyncio.get_running_loop():
            await store.close()

    def separate(self) -> IdempotencyStore | None:
        """The store that was given, for another loop; None where the settings choose."""
        return None if self._given is None else self._given.separate()

    def _choose(self, settings: Settings, queue: BackgroundJobQueue) -> IdempotencyStore:
        if self._given is not None:
            # Connections belong to the loop that made them; the first loop gets the object itself.
            return self._given if self._of is None else self._given.separate()
        from jobbus.settings.idempotency import create_idempotency_store

        return create_idempotency_store(settings, queue)


async def failed_keys(store: JobStore, job_ids: Sequence[str]) -> list[str]:
    """The callers' keys of those of these jobs that ended without success."""
    found = []
    for start in range(0, len(job_ids), _PAGE):
        ids = tuple(job_ids[start : start + _PAGE])
        for job in (await store.find(JobFilter(ids=ids), limit=_PAGE)).jobs:
            key = job.headers.get(IDEMPOTENCY_KEY)
            if key is not None and job.state.terminal and job.state is not JobState.COMPLETED:
                found.append(stored_key(job.job_type, key))
    return found
