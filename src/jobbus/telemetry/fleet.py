"""What holds for the whole fleet, measured by one of its workers: depth and age of every queue."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, Literal

from jobbus.errors import BackendError
from jobbus.message import NO_DELAY, QueueDepth
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore, WorkerRecord

from . import names
from .names import Instrument
from .tally import Labels, Reading

Exports = Literal["auto", "always", "never"]
_SEEN_WITHIN: Final = timedelta(seconds=45)
"""Three times as long as live workers take to be seen again."""
_MAX_QUEUES: Final = 200
"""Queues that are measured; a fleet with more watches the others by its own means."""
_OF_DEPTH: Final[Sequence[tuple[Instrument, Callable[[QueueDepth], float | None]]]] = (
    (names.QUEUE_DEPTH, lambda depth: depth.ready),
    (names.OLDEST_AGE, lambda depth: _seconds(depth.oldest_age)),
    (names.IN_FLIGHT, lambda depth: depth.leased),
    (names.DELAYED, lambda depth: depth.delayed),
    (names.BLOCKED, lambda depth: depth.blocked),
    (names.DEAD_LETTERS, lambda depth: depth.dead),
    (names.RELAY_LAG, lambda depth: _seconds(depth.oldest_unsent)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSample:
    """The state of the queues at one moment; empty where another worker tells it."""

    depths: Mapping[str, QueueDepth] = field(default_factory=dict)
    paused: Mapping[str, bool] = field(default_factory=dict)
    workers: int | None = None


class FleetWatch:
    """Takes samples, where it is this worker's turn.

    With a ledger, it is the turn of the live worker that has been there longest, as the ledger
    lists them; all workers see the same list, so that no election is needed. Without one nobody
    can tell, and every worker measures.
    """

    def __init__(
        self,
        queue: BackgroundJobQueue,
        store: JobStore | None,
        queues: Iterable[str],
        *,
        exports: Exports,
    ) -> None:
        self._queue = queue
        self._store = store
        self._queues = tuple(queues)
        self._exports = exports
        self._sample = FleetSample()

    async def sample_once(self) -> None:
        """Measure, if it is this worker's turn; else forget what was measured before."""
        if self._exports != "never":
            try:
                self._sample = await self._measured()
            except BackendError:
                self._sample = FleetSample()  # old numbers would hide that nobody knows
                raise

    async def _measured(self) -> FleetSample:
        workers = None if self._store is None else await self._store.workers()
        if self._exports == "auto" and workers is not None and not is_first(workers):
            return FleetSample()
        paused = await self._paused()
        known = list(dict.fromkeys([*self._queues, *paused]))[:_MAX_QUEUES]
        depths = {name: await self._depth(name) for name in known}
        alive = None if workers is None else sum(worker.alive for worker in workers)
        return FleetSample(depths=depths, paused=paused, workers=alive)

    def readings(self) -> Iterator[Reading]:
        """The last sample."""
        sample = self._sample
        for instrument, of in _OF_DEPTH:
            values: dict[Labels, float] = {
                (name,): value
                for name, depth in sample.depths.items()
                if (value := of(depth)) is not None
            }
            yield Reading(instrument, values)
        yield Reading(names.QUEUE_PAUSED, {(name,): on for name, on in sample.paused.items()})
        yield Reading(names.WORKERS, {} if sample.workers is None else {(): sample.workers})

    async def _depth(self, queue: str) -> QueueDepth:
        depth = await self._queue.get_queue_depth(queue)
        if self._store is not None and depth.ready == 0:
            return replace(depth, oldest_age=NO_DELAY)
        return depth  # without a ledger, no age can mean that the broker cannot say

    async def _paused(self) -> dict[str, bool]:
        if self._store is None:
            return {}
        return {status.name: status.paused for status in await self._store.queues()}


def is_first(workers: Sequence[WorkerRecord]) -> bool:
    """Whether this process is the one of those alive that has been there longest.

    A worker that was seen much longer ago than another is not waited for until it counts as dead.
    """
    alive = [worker for worker in workers if worker.alive]
    if not alive:
        return True
    latest = max(worker.seen_at for worker in alive)  # the store's clock, not ours
    alive = [worker for worker in alive if latest - worker.seen_at <= _SEEN_WITHIN]
    first = min(alive, key=lambda worker: (worker.started_at, worker.name))
    return (first.host, first.pid) == (socket.gethostname(), os.getpid())


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
