"""Queue and ledger in Redis: one script for each transition, all jobs of a deployment in one slot.

Delivery: at least once, under leases by the server's clock, fenced by attempt and claim.
Durability: what Redis's append-only file keeps. With ``appendfsync everysec`` the last second may
go with the machine; a failover may lose what the replica had not got.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Final, Self

from jobbus.errors import BackendUnavailable, InvalidJob, Unsupported
from jobbus.message import (
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

from .redis_store.connection import Argument
from .redis_store.ledger import dead_workers, held_by, identity_text, queue_name, steps
from .redis_store.options import RedisOptions
from .redis_store.records import completion_argument, deliveries_from, enqueue_argument, lasting
from .redis_store.transfer import RedisMovable
from .sql.base import LOOK_INTERVAL
from .sql.checks import check_message
from .sql.claims import ClaimBook, by_claim
from .sql.identity import ProcessIdentity
from .sql.news import News
from .sql.outbox import MIN_LEASE
from .sql.rows import mended, problem_text

if TYPE_CHECKING:
    from jobbus.idempotency.store import IdempotencyStore
    from jobbus.settings import Settings

CAPABILITIES: Final = Capabilities(
    durable=True,
    ledger=True,
    deduplicates=True,
    ordered_groups=True,
    priorities=True,
    dependencies=True,
    unique_keys=True,
    expiry=True,
    transactional=False,
    extends_leases=True,
    exact_counts=True,
    max_batch=500,
)
_MOST_AT_ONCE: Final = 200
_SWEEP_INTERVAL: Final = 30.0
_STATES: Final = {
    "k": LeaseState.KEPT,
    "l": LeaseState.LOST,
    "c": LeaseState.CANCEL_REQUESTED,
}


class RedisQueue(RedisMovable):
    """Jobs in Redis 6.2 or newer, or Valkey: a single server, behind Sentinel, or a cluster."""

    def __init__(self, url: str | None = None, *, options: RedisOptions | None = None) -> None:
        options = options or RedisOptions()
        super().__init__(options if url is None else replace(options, url=url))
        self._news = News()
        self._claims = ClaimBook()
        self._me = ProcessIdentity.current()
        self._next_look = 0.0
        self._next_sweep = 0.0
        self._handing_back: set[asyncio.Task[None]] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A queue on the Redis that the settings name; see :class:`RedisOptions`."""
        return cls(options=RedisOptions.from_settings(settings))

    @property
    def capabilities(self) -> Capabilities:
        return replace(CAPABILITIES, durable=not self._link.options.allow_volatile)

    @property
    def location(self) -> str:
        """Where the jobs are, for people to read."""
        return self._link.options.location

    async def open(self) -> None:
        """Connect. Raises ConfigurationError for a server that does not keep what it is given."""
        self._me = ProcessIdentity.current()  # anew, behind a fork
        await self._link.open()

    async def close(self) -> None:
        if self._handing_back:
            await asyncio.gather(*self._handing_back)
        await self._link.close()
        self._news.arrived()  # whoever waits learns at once

    def separate(self) -> RedisQueue:
        return RedisQueue(options=self._link.options)

    async def drop(self) -> None:
        """Delete everything under this prefix, by a walk over all keys of the server."""
        cursor = 0
        while True:
            cursor, keys = await self._link.command(
                "SCAN", cursor, "MATCH", f"{self._key('')}*", "COUNT", 1000
            )
            if keys:
                await self._link.command("UNLINK", *keys)
            if not cursor:
                return

    def idempotency_store(self, ttl: timedelta) -> IdempotencyStore:
        """Where idempotency keys are kept; open while this queue is."""
        from .redis_store.keys import RedisKeys

        return RedisKeys(self._link, ttl)

    # the transport seam

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        _refuse_transaction(connection)
        if not messages:
            return []
        if len(messages) > (CAPABILITIES.max_batch or 0):
            raise Unsupported(
                f"Redis takes at most {CAPABILITIES.max_batch} messages in one call, since nobody "
                f"else is served meanwhile; not {len(messages)}"
            )
        for message in messages:
            check_message(message, CAPABILITIES)
        _refuse_circles(messages)
        linked = any(m.depends_on or m.group for m in messages)
        arguments = [enqueue_argument(message) for message in messages]
        ids = await self._link.run("enqueue_linked" if linked else "enqueue", *arguments)
        self._news.arrived()
        self._note_due(messages)
        return [job_id.decode() for job_id in ids]

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if lease < MIN_LEASE:
            raise Unsupported(f"a lease must last at least {MIN_LEASE}, not {lease}")
        queue_name(queue)
        deadline = time.monotonic() + wait.total_seconds()
        while True:
            heard = self._news.version
            await self._look_after()
            deliveries = await self._claim_safely(queue, limit, lease)
            remaining = deadline - time.monotonic()
            if deliveries or remaining <= 0:
                return deliveries
            self._link.listen(self._news.arrived)
            pause = max(min(self._next_look - time.monotonic(), LOOK_INTERVAL), 0.001)
            await self._news.wait(heard, min(remaining, pause))

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        _refuse_transaction(connection)
        lost: list[Delivery] = []
        for some in steps([c for c in done if not c.cancelled]):
            lost += await self._complete_plain(some)
        return lost + await self._settle([c for c in done if c.cancelled])

    async def _complete_plain(self, done: Sequence[Completion]) -> list[Delivery]:
        deliveries = [c.delivery for c in done]
        ids = by_claim(deliveries)
        closed = self._claims.closing(ids)
        arguments: list[Argument] = [len(closed), *closed]
        arguments += [completion_argument(c.delivery, c.result) for c in done]
        waited_for, *lost = await self._link.run("complete", *arguments)
        self._claims.settled(ids)
        if waited_for:
            await self._resolve()
            self._news.arrived()
        return [deliveries[place] for place in lost]

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        lost = await self._settle(back)
        if back:
            soonest = min(a.delay.total_seconds() for a in back)
            self._next_look = min(self._next_look, time.monotonic() + soonest)
            self._news.arrived()
        return lost

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        return await self._settle(dead)

    async def _settle(
        self, settlements: Sequence[Completion | Abandonment | DeadLetter]
    ) -> list[Delivery]:
        lost: list[Delivery] = []
        for some in steps(settlements):
            deliveries = [s.delivery for s in some]
            ids = by_claim(deliveries)
            closed = self._claims.closing(ids)
            told = json.dumps([_settlement(s) for s in some])
            untold, *places = await self._link.run("settle", len(closed), *closed, told)
            self._claims.settled(ids)
            if untold:
                await self._resolve()
            lost += [deliveries[place] for place in places]
        return lost

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        return [_STATES[letter] for letter in await self._leases(held, lasting(lease))]

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        answer = await self._link.run("depth", queue_name(queue))
        ready, leased, scheduled, retrying, blocked, failed, timed_out, oldest = answer
        return QueueDepth(
            ready=ready,
            leased=leased,
            delayed=scheduled + retrying,
            blocked=blocked,
            dead=failed + timed_out,
            oldest_age=None if oldest < 0 else timedelta(microseconds=oldest),
        )

    async def recover(self, *, expired_for: timedelta = timedelta(0)) -> int:
        return await self._tend(expired_for=expired_for, thorough=True)

    async def suspect(self, delivery: Delivery) -> bool:
        """Mark a job under which a process died before as about to run alone; False if lost."""
        return bool(await self._link.run("suspect", *held_by(delivery)))

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
        asked = time.monotonic()
        claim = secrets.randbits(63)
        answer = await self._link.run(
            "claim", queue, min(limit, _MOST_AT_ONCE), lasting(lease), claim, self._me.name
        )
        if not answer:
            return []
        deliveries, unreadable = deliveries_from(answer, queue, claim, asked)
        self._claims.opened([*deliveries, *(dead.delivery for dead in unreadable)])
        if unreadable:
            with contextlib.suppress(BackendUnavailable):  # then they come again
                await self.dead_letter(unreadable)
        return deliveries

    # what falls due

    async def _look_after(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        thorough = now >= self._next_sweep
        if thorough:
            self._next_sweep = now + _SWEEP_INTERVAL
        await self._tend(expired_for=timedelta(0), thorough=thorough)

    async def _tend(self, *, expired_for: timedelta, thorough: bool) -> int:
        dead = dead_workers(await self._link.run("workers")) if thorough else []
        taken, more = 0, True
        while more:
            some, more, next_due = await self._link.run(
                "tend", lasting(expired_for), json.dumps(dead), self._me.name,
                identity_text(self._me),
            )  # fmt: skip
            taken += some
        pause = LOOK_INTERVAL if next_due < 0 else min(next_due / 1e6, LOOK_INTERVAL)
        self._next_look = time.monotonic() + pause
        if taken:
            self._news.arrived()
        return taken

    def _announce_arrivals(self) -> None:
        self._next_look = 0.0  # among them may be what falls due soon
        self._news.arrived()

    def _note_due(self, messages: Sequence[Message]) -> None:
        delays = [m.delay.total_seconds() for m in messages if m.delay]
        if delays:
            self._next_look = min(self._next_look, time.monotonic() + min(delays))
        if any(m.run_at or m.expires_at for m in messages):
            self._next_look = 0.0


def _settlement(settlement: Completion | Abandonment | DeadLetter) -> dict[str, Any]:
    job_id, attempt, claim = held_by(settlement.delivery)
    told: dict[str, Any] = {"id": job_id, "attempt": str(attempt), "claim": str(claim)}
    match settlement:
        case Completion():
            return {**told, "kind": "cancelled", "reason": mended(settlement.reason)}
        case DeadLetter():
            kind, delay = "timed_out" if settlement.timed_out else "dead", 0
        case Abandonment():
            kind, delay = str(settlement.counts_as), lasting(settlement.delay)
    problem = settlement.problem
    if problem is not None:
        told |= {"problem": problem_text(problem), "reason": mended(problem.message)}
    return {**told, "kind": kind, "delay": delay}


def _refuse_transaction(connection: Any | None) -> None:
    if connection is not None:
        raise Unsupported(
            "Redis cannot join a database transaction: use Postgres or SQLite, or enqueue after "
            "the commit"
        )


def _refuse_circles(messages: Sequence[Message]) -> None:
    edges = {m.job_id: [edge.job_id for edge in m.depends_on] for m in messages if m.depends_on}
    if not edges:
        return
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InvalidJob(f"these jobs wait for each other in a circle: {circle}") from error
