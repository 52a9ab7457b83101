"""The queue and ledger that SQLite, memory and Postgres share; they differ in how programs run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from jobbus.errors import BackendUnavailable, Unsupported
from jobbus.message import (
    NO_DELAY,
    Abandonment,
    Capabilities,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    QueueDepth,
)

from . import callers, claims, dependencies, hot, maintenance, settling
from .checks import check_message
from .identity import ProcessIdentity, provably_dead
from .outbox import MIN_LEASE, SqlOutbox
from .program import Call, Program

T = TypeVar("T")
LOOK_INTERVAL: Final = 1.0
"""Seconds between looks for what fell due, at the most."""
_SEEN_INTERVAL: Final = 15.0
_SWEEP_INTERVAL: Final = 30.0
CAPABILITIES: Final = Capabilities(
    durable=True,
    ledger=True,
    deduplicates=True,
    ordered_groups=True,
    priorities=True,
    dependencies=True,
    unique_keys=True,
    expiry=True,
    transactional=True,
    extends_leases=True,
    exact_counts=True,
)
"""What a database of jobs can do, whichever it is."""


class SqlQueue(SqlOutbox, ABC):
    """Both :class:`~jobbus.queue.BackgroundJobQueue` and :class:`~jobbus.store.JobStore`.

    Subclasses say how a program is run and how news of ready jobs arrives.
    """

    def __init__(self) -> None:
        super().__init__()
        self._worker: int | None = None
        self._registering = asyncio.Lock()
        self._next_look = 0.0
        self._next_seen = 0.0
        self._next_sweep = 0.0
        self._handing_back: set[asyncio.Task[None]] = set()
        self._room: Counter[str] = Counter()
        """What is waited for in this process, by queue."""

    # what a backend brings

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def _listening(self) -> AbstractContextManager[None]:
        """Within it, news from other processes arrives in ``self._news``."""

    @abstractmethod
    def _publish_ready(self, queues: Iterable[str]) -> None:
        """Wake whoever waits for jobs of these queues in other processes."""

    def _publish_soon(self, queues: Iterable[str]) -> None:
        """The same for jobs that somebody waits for here: he takes them first, if he can."""
        self._publish_ready(queues)

    def _poll_pause(self) -> float:
        """Seconds until the next look for ready jobs that nobody announced."""
        return LOOK_INTERVAL

    def _found_work(self) -> None:
        """A claim brought something: poll eagerly again."""

    @abstractmethod
    def _always_look(self) -> bool:
        """Whether time may pass otherwise than on this process's clock (a virtual clock)."""

    # the transport seam

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        if not messages:
            return []
        for message in messages:
            check_message(message, self.capabilities)

        def make() -> Program[list[str]]:
            return hot.enqueue(messages, self._scope)

        if connection is not None:
            ids = await callers.run(make, connection, self._caller_sql())
            await callers.hint(connection, self._hint_in_transaction(messages))
            return ids
        await self._notice_watchers()
        ids = await self._run(make, atomic=hot.needs_transaction(messages))
        numbers = Counter(m.queue for m in messages)
        publish = self._publish_soon if self._room >= numbers else self._publish_ready
        self._news.arrived()
        publish(numbers)
        self._note_due(messages)
        return ids

    def enqueue_sync(self, messages: Sequence[Message], connection: Any) -> Sequence[str]:
        """:meth:`enqueue` in the transaction of a synchronous connection, in the calling thread."""
        for message in messages:
            check_message(message, self.capabilities)
        ids = callers.run_sync(
            lambda: hot.enqueue(messages, self._scope), connection, self._caller_sql()
        )
        callers.hint_sync(connection, self._hint_in_transaction(messages))
        return ids

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if lease < MIN_LEASE:
            raise Unsupported(f"a lease must last at least {MIN_LEASE}, not {lease}")
        deadline = time.monotonic() + wait.total_seconds()
        while True:
            heard = self._news.version
            await self.look_after()
            deliveries = await self._claim_safely(queue, limit, lease)
            remaining = deadline - time.monotonic()
            if deliveries:
                self._found_work()
            if deliveries or remaining <= 0:
                return deliveries
            self._room[queue] += limit
            try:
                await self.await_news(heard, timedelta(seconds=remaining))
            finally:
                self._room[queue] -= limit

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        if connection is not None:
            return await callers.run(
                self._completing(done, closed=[], linked=True), connection, self._caller_sql()
            )
        cancelled = [c for c in done if c.cancelled]
        plain = [c for c in done if not c.cancelled] if cancelled else done
        lost: list[Delivery] = []
        if plain:
            lost += await self._complete_plain(plain)
        if cancelled:
            lost += await self._settle(cancelled)
        return lost

    def complete_sync(self, done: Sequence[Completion], connection: Any) -> Sequence[Delivery]:
        """:meth:`complete` in the transaction of a synchronous connection."""
        make = self._completing(done, closed=[], linked=True)
        return callers.run_sync(make, connection, self._caller_sql())

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        if not back:
            return []
        lost = await self._settle(back)
        self._announce_ready({a.delivery.message.queue for a in back})
        soonest = min(a.delay.total_seconds() for a in back)
        self._next_look = min(self._next_look, time.monotonic() + soonest)
        return lost

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        return await self._settle(dead) if dead else []

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        if not held:
            return []

        def make() -> Program[list[LeaseState]]:
            return claims.extend(held, lease)

        return await self._run(make, atomic=False)

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        depth = await self._run(lambda: _depth(queue), write=False)
        if not self._relayed:
            return depth
        handed, oldest_ms = await self._with_broker(queue)
        ages = [depth.oldest_age, _age(oldest_ms)]
        oldest = max((age for age in ages if age is not None), default=None)
        return replace(
            depth,
            ready=depth.ready + handed,
            oldest_age=oldest,
            oldest_unsent=depth.oldest_age or NO_DELAY,
        )

    async def recover(self, *, expired_for: timedelta = timedelta(0)) -> int:
        due = await self._run(maintenance.look, write=False)
        taken = await self._tend(due, expired_for=expired_for, thorough=True)
        await self._run(lambda: maintenance.sweep(self._scope), atomic=True)
        return taken

    async def suspect(self, delivery: Delivery) -> bool:
        """Mark a job under which a process died before as about to run alone; False if lost."""
        parameters = {
            "id": delivery.job_id,
            "attempt": delivery.attempt,
            "claim": delivery.receipt.claim,
        }

        def make() -> Program[bool]:
            rows = yield Call("mark_suspect", parameters)
            return bool(rows)

        return await self._run(make, atomic=False)

    def _announce_ready(self, queues: Iterable[str]) -> None:
        self._news.arrived()
        self._publish_ready(queues)

    # claiming

    async def _claim_safely(self, queue: str, limit: int, lease: timedelta) -> list[Delivery]:
        """Claim; if the caller is cancelled meanwhile, what was claimed goes back."""
        task = asyncio.ensure_future(self._claim(queue, limit, lease))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            back = asyncio.ensure_future(self._hand_back(task))
            self._handing_back.add(back)
            back.add_done_callback(self._handing_back.discard)
            raise

    async def _hand_back(self, claiming: asyncio.Task[list[Delivery]]) -> None:
        with contextlib.suppress(BackendUnavailable):  # then the lease runs out instead
            deliveries = await claiming
            await self.abandon(
                [Abandonment(delivery=d, counts_as=CountsAs.RELEASE) for d in deliveries]
            )

    async def _claim(self, queue: str, limit: int, lease: timedelta) -> list[Delivery]:
        worker = await self._registered()
        lease_ms = round(lease.total_seconds() * 1000)

        def make() -> Program[list[tuple[Any, ...]]]:
            return hot.claim(
                queue, limit=limit, lease_ms=lease_ms, worker=worker, scope=self._scope
            )

        asked = time.monotonic()
        return await self._opened(await self._run(make, atomic=False), queue, asked)

    async def _registered(self) -> int:
        if self._worker is None:
            async with self._registering:
                if self._worker is None:
                    self._worker = await self._run(self._register, atomic=False)
        return self._worker

    def _register(self) -> Program[int]:
        me = ProcessIdentity.current()
        rows = yield Call(
            "register_worker",
            {
                "name": f"{self._kind}{me.name}",
                "host": me.host,
                "space": me.space,
                "pid": me.pid,
                "birth": me.birth,
            },
        )
        return int(rows[0][0])

    # settling

    async def _complete_plain(self, done: Sequence[Completion]) -> list[Delivery]:
        linked = any(c.delivery.receipt.has_dependents for c in done)
        ids = claims.by_claim(c.delivery for c in done)
        closed = self._claims.closing(ids)
        make = self._completing_parts(done, closed=closed, linked=linked)
        missed, parents = await self._run(make, atomic=linked)
        self._claims.settled(ids)
        if parents:
            await self._run(lambda: dependencies.resolve(parents, self._scope), atomic=True)
        if linked or parents:
            self._announce_ready(["*"])
        if not missed:
            return []
        names = {id(d) for d in missed}
        doubtful = [c for c in done if id(c.delivery) in names]
        return await self._run(lambda: settling.refuse(doubtful, self._scope), atomic=True)

    def _completing_parts(
        self, done: Sequence[Completion], *, closed: Sequence[int], linked: bool
    ) -> Callable[[], Program[tuple[list[Delivery], list[str]]]]:
        return lambda: hot.complete(done, closed=closed, linked=linked, scope=self._scope)

    def _completing(
        self, done: Sequence[Completion], *, closed: Sequence[int], linked: bool
    ) -> Callable[[], Program[list[Delivery]]]:
        def make() -> Program[list[Delivery]]:
            lost, _ = yield from hot.complete(done, closed=closed, linked=linked, scope=self._scope)
            return lost

        return make

    async def _settle(self, settlements: Sequence[settling.Settlement]) -> list[Delivery]:
        deliveries = [s.delivery for s in settlements]
        ids = claims.by_claim(deliveries)
        closed = self._claims.closing(ids)
        lost = await self._run(
            lambda: settling.settle(settlements, closed=closed, scope=self._scope),
            atomic=True,
        )
        self._claims.settled(ids)
        if any(d.receipt.has_dependents for d in deliveries):
            self._announce_ready(["*"])
        return lost

    # what falls due

    async def look_after(self) -> None:
        now = time.monotonic()
        if now < self._next_look and not self._always_look():
            return
        due = await self._run(maintenance.look, write=False)
        self._watched = due.watched
        self._next_look = time.monotonic() + _until(due.next_ms)
        worker = await self._registered()
        if now >= self._next_seen:
            self._next_seen = now + _SEEN_INTERVAL
            await self._run(lambda: claims.seen(worker), atomic=False)
        thorough = now >= self._next_sweep
        if thorough or due.jobs or due.deadlines or due.leases:
            await self._tend(due, expired_for=timedelta(0), thorough=thorough)
        if thorough:
            self._next_sweep = now + _SWEEP_INTERVAL
            await self._run(lambda: maintenance.sweep(self._scope), atomic=True)

    def _until_look(self) -> float:
        return min(self._next_look - time.monotonic(), self._poll_pause())

    async def _tend(self, due: maintenance.Due, *, expired_for: timedelta, thorough: bool) -> int:
        ready: set[str] = set()
        if due.jobs:
            ready |= await self._run(maintenance.promote, atomic=False)
        if due.deadlines:
            await self._run(lambda: maintenance.expire(self._scope), atomic=True)
        dead: list[int] = []
        if thorough:
            workers = await self._run(claims.claiming_workers, write=False)
            dead = [id for id, space, pid, birth in workers if provably_dead(space, pid, birth)]
        taken, more = 0, due.leases or bool(dead)
        while more:
            some, back, more = await self._run(
                lambda: maintenance.take_back(
                    expired_for=expired_for, dead_workers=dead, scope=self._scope
                ),
                atomic=True,
            )
            taken += some
            ready |= back
        if ready or taken:
            self._announce_ready(ready)
        return taken

    def _note_due(self, messages: Sequence[Message]) -> None:
        delays = [m.delay.total_seconds() for m in messages if m.delay]
        if delays:
            self._next_look = min(self._next_look, time.monotonic() + min(delays))
        if any(m.run_at or m.expires_at for m in messages):
            self._next_look = 0.0

    async def _finish_handing_back(self) -> None:
        if self._handing_back:
            await asyncio.gather(*self._handing_back)

    @abstractmethod
    def _hint_in_transaction(self, messages: Sequence[Message]) -> Any:
        """The statement that wakes workers when the caller's transaction commits, or None."""


def _until(next_ms: float | None) -> float:
    return LOOK_INTERVAL if next_ms is None else min(max(next_ms / 1000, 0.0), LOOK_INTERVAL)


def _depth(queue: str) -> Program[QueueDepth]:
    rows = yield Call("depth", {"queue": queue})
    ready, leased, delayed, blocked, dead, oldest_ms = rows[0]
    return QueueDepth(
        ready=ready,
        leased=leased,
        delayed=delayed,
        blocked=blocked,
        dead=dead,
        oldest_age=_age(oldest_ms),
    )


def _age(milliseconds: float | None) -> timedelta | None:
    return None if milliseconds is None else timedelta(milliseconds=max(milliseconds, 0))
