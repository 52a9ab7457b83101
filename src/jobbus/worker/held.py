"""A delivery in this worker's hands, and everything that may befall it while it is there."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

from jobbus.context import JobContext
from jobbus.idempotency.store import KeyHold
from jobbus.job import Progress
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery
from jobbus.middleware.idempotency_values import Ahead

Settlement = Completion | Abandonment | DeadLetter
_LEAST_MARGIN: Final = timedelta(seconds=2)


def margin(lease: timedelta) -> timedelta:
    """How long before its lease ends a worker stops trusting it.

    The larger of 2 s and a tenth of the lease, but never more than a quarter of a short one.
    """
    return min(max(_LEAST_MARGIN, lease / 10), lease / 4)


@dataclass(slots=True, eq=False)
class Held:
    """One delivery, from its receipt until it has been settled.

    Touched by the event loop; the heartbeat's thread reads it, and sets ``valid_until``
    and ``hold_until`` only.
    """

    delivery: Delivery
    valid_until: float
    """Monotonic seconds; beyond it the lease is not trusted any more."""
    received_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    """None while it waits in the local queue."""
    runner: asyncio.Task[None] | None = None
    cancel_requested: bool = False
    lost: bool = False
    """Another worker may have it: whatever becomes of it here, nothing is reported."""
    timed_out: bool = False
    releasing: bool = False
    finished: bool = False
    """The handler is done; the outcome is on its way to the queue."""
    progress: Progress | None = None
    """The handler's latest word, from whichever thread; the ones before it are not written."""
    told: Progress | None = None
    """The latest word that was written."""
    context: Callable[[], JobContext] | None = None
    """What the handler sees of its job, once it has begun."""
    settlement: Settlement | None = None
    """What became of it here, for the queue to be told."""
    hold: KeyHold | None = None
    """The idempotency key under which it runs, where it has one."""
    hold_until: float = math.inf
    """Monotonic seconds; beyond it the key's lease is not trusted any more."""
    hold_ending: bool = False
    """The key's end is being told: it is renewed no longer."""
    ahead: Ahead | None = None
    """What was asked of the store of keys while the delivery waits for its slot."""
    notice: tuple[Literal["complete", "error"], object] | None = None
    """What to tell the job type's observers, once it has been recorded."""

    @property
    def key(self) -> tuple[str, int]:
        """The job and the attempt: a job may be here twice, when its lease was lost and won."""
        return self.delivery.message.job_id, self.delivery.attempt

    @property
    def must_stop(self) -> bool:
        return self.cancel_requested or self.lost or self.timed_out or self.releasing

    def lapsed(self, now: float) -> bool:
        """Whether the delivery's lease, or that of its key, is no longer trusted."""
        # A key that was begun ahead is begun again when its turn comes.
        key_matters = self.ahead is None and not self.hold_ending
        return self.valid_until < now or (self.hold_until < now and key_matters)

    def interrupt(self) -> None:
        """Cancel the handler, if one runs. On the event loop only."""
        if self.runner is not None and not self.finished:
            self.runner.cancel()


class Holdings:
    """Everything in this worker's hands. Added to and removed from on the event loop only."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Held] = {}
        self._lock = threading.Lock()
        self._awaited: dict[Held, asyncio.Future[None]] = {}
        self.freed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, taken: Iterable[Held]) -> None:
        with self._lock:
            self._held.update((held.key, held) for held in taken)

    def remove(self, settled: Iterable[Held]) -> None:
        with self._lock:
            for held in settled:
                self._held.pop(held.key, None)
                awaited = self._awaited.pop(held, None) if self._awaited else None
                if awaited is not None and not awaited.done():
                    awaited.set_result(None)
        self.freed.set()

    async def removal(self, held: Held) -> None:
        """Until the delivery has been settled, and is held no longer. For one waiter."""
        if held.key in self._held:
            self._awaited[held] = asyncio.get_running_loop().create_future()
            await self._awaited[held]

    def snapshot(self) -> list[Held]:
        """Everything, safe to take on any thread."""
        with self._lock:
            return list(self._held.values())

    def running(self) -> list[Held]:
        return [h for h in self.snapshot() if h.started_at is not None and not h.finished]
