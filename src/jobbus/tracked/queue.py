"""Any broker, with a ledger around it: the row first, then the message, then the row again.

Delivery: at least once, as far as the ledger is durable. A job is a row before it is a message, and
is done when its row says so. What the broker loses, doubles or reorders costs time, never a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from jobbus.errors import BackendError, BackendUnavailable, ConfigurationError, InvalidJob
from jobbus.job import Problem
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
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore, Outbox

from .bundles import Bundles, Share, share_of
from .relay import Relay
from .store import LedgerVerbs, TrackingStore

log = logging.getLogger("jobbus.tracked")

S = TypeVar("S", Completion, Abandonment, DeadLetter)
_PAUSED_LOOK: Final = timedelta(seconds=1)


class TrackedQueue(LedgerVerbs):
    """A broker that remembers: a :class:`BackgroundJobQueue` and a :class:`JobStore` in one.

    ``relays`` says whether a receive hands over what it will take; without it, ``jobbus relay``
    must run somewhere. The broker is connected when it is first needed, so that those who only
    enqueue never are.
    """

    def __init__(
        self, broker: BackgroundJobQueue, ledger: BackgroundJobQueue, *, relays: bool = True
    ) -> None:
        super().__init__(_checked(broker, ledger))
        self.broker = broker
        self._relays = relays
        self.ledger.await_relay()
        self._opened = False
        self._connecting = asyncio.Lock()
        self._connected = False
        self._bundles = Bundles(broker)
        self._relay = Relay(self.ledger, self._open_broker)
        self._handing_back: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """The ledger's. Of the broker it takes only that messages come, sooner or later."""
        return self.ledger.capabilities

    @property
    def location(self) -> str:
        """Where messages and jobs are, for people to read; without passwords."""
        places = (getattr(part, "location", "") for part in (self.broker, self.ledger))
        return " with the ledger ".join(place for place in places if place)

    async def open(self) -> None:
        """Open the ledger. The broker may be away: jobs are accepted all the same."""
        await self.ledger.open()
        if not self._opened:
            # Locks belong to an event loop, and this need not be the one of the last time.
            self._connecting = asyncio.Lock()
            self._relay = Relay(self.ledger, self._open_broker)
            self._keeping = None
            self._opened = True

    async def close(self) -> None:
        self._opened = False
        await self._relay.finish()
        if self._handing_back:
            await asyncio.gather(*self._handing_back)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
            self._keeping = None
        if self._connected:
            self._connected = False
            await self.broker.close()
        await self.ledger.close()

    def separate(self) -> TrackedQueue:
        return TrackedQueue(self.broker.separate(), self.ledger.separate(), relays=self._relays)

    def relay(self, *, window: int) -> Relay:
        """A relay that keeps ``window`` jobs of each queue with the broker, for other processes."""
        return Relay(self.ledger, self._open_broker, window=window, counted=float("inf"))

    async def _open_broker(self) -> Bundles:
        if not self._connected:
            if not self._opened:
                raise BackendUnavailable("this queue is not open: it was closed, or never opened")
            async with self._connecting:
                if not self._connected:
                    await self.broker.open()
                    self._connected = True
        return self._bundles

    # in

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        return await self.ledger.enqueue(messages, connection=connection)

    # out

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        deadline = time.monotonic() + wait.total_seconds()
        with self._relay.wanting(queue, limit if self._relays else 0):
            while True:
                seen = self.ledger.news
                step = await self._relay.step(queue)
                left = timedelta(seconds=max(deadline - time.monotonic(), 0))
                if step.paused:
                    if not left:
                        return []
                    await self.ledger.await_news(seen, min(left, _PAUSED_LOOK))
                    continue
                shares = await self._await_shares(queue, limit, left, lease, seen)
                if shares:
                    started = await self._start_safely(
                        shares, queue, lease, limit, step.outstanding
                    )
                    if started:
                        return started
                elif not left:
                    return []

    async def _await_shares(
        self, queue: str, limit: int, wait: timedelta, lease: timedelta, seen: int
    ) -> list[Share]:
        """Tickets from the broker; meanwhile, what becomes ready is handed over."""
        receiving = asyncio.ensure_future(self._shares(queue, limit, wait, lease))
        following = asyncio.ensure_future(self._relay.follow(queue, seen))
        try:
            await asyncio.wait({receiving, following}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                following.result()  # it ends by an error only
            return receiving.result()
        except BaseException:
            self._spawn(self._return_shares(receiving))
            raise
        finally:
            # Nothing is awaited here: who is cancelled meanwhile would lose what was received.
            following.cancel()
            following.add_done_callback(_heard)

    async def _shares(
        self, queue: str, limit: int, wait: timedelta, lease: timedelta
    ) -> list[Share]:
        broker = await self._open_broker()
        longest = broker.capabilities.max_lease
        kept = lease if longest is None else min(lease, longest)
        return await broker.receive(queue, limit=limit, wait=wait, lease=kept)

    async def _start_safely(
        self, shares: list[Share], queue: str, lease: timedelta, limit: int, outstanding: int
    ) -> list[Delivery]:
        """Start the jobs of these tickets; if the caller is cancelled meanwhile, they go back."""
        task = asyncio.ensure_future(self._start(shares, queue, lease, limit, outstanding))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._spawn(self._hand_back(task))
            raise

    async def _start(
        self, shares: list[Share], queue: str, lease: timedelta, limit: int, outstanding: int
    ) -> list[Delivery]:
        """The start gate: the ledger says which jobs start here; all other tickets are spent."""
        expected = min(limit, outstanding)
        with contextlib.suppress(BackendError):  # what came must not wait for what does not
            while (missing := expected - len({share.job_id for share in shares})) > 0:
                more = await self._shares(queue, missing, NO_DELAY, lease)
                if not more:
                    break
                shares += more
        shares = await self._within(shares, limit)
        tickets = [share for share in shares if not share.bundle.is_job]
        started = list(await self.ledger.start(tickets, queue=queue, lease=lease))
        if len(started) < len(shares):
            used = {id(one.receipt.ticket) for one in started}
            try:
                await self._refuse([share for share in shares if id(share) not in used], queue)
            except BackendError as error:  # what has started must not be lost for it
                log.warning("messages could not be looked into; they will come again: %s", error)
        return started

    async def _within(self, shares: list[Share], limit: int) -> list[Share]:
        """Those of so many jobs; the others go back for other workers. Doubles do not count."""
        if len(shares) <= limit:
            return shares
        wanted = frozenset(list(dict.fromkeys(share.job_id for share in shares))[:limit])
        surplus = [share for share in shares if share.job_id not in wanted]
        if surplus:
            await self._bundles.give_up(surplus)
        return [share for share in shares if share.job_id in wanted]

    async def _refuse(self, shares: Sequence[Share], queue: str) -> None:
        """Drop tickets of jobs that run, have ended or are not due; keep a paused queue's."""
        for share in shares:
            if share.bundle.is_job:
                await self._adopt(share)
        tickets = [share for share in shares if not share.bundle.is_job]
        if not tickets:
            return
        paused = (await self.ledger.hand_over(queue, limit=0, within=NO_DELAY)).paused
        if paused:
            await self._tell_broker(lambda broker: broker.give_back(tickets))
        else:
            await self._acknowledge(tickets)

    async def _adopt(self, share: Share) -> None:
        """Record a job that came without a row: from before there was a ledger."""
        try:
            await self.ledger.enqueue([share.bundle.message.message])
        except InvalidJob as error:
            problem = Problem(kind=type(error).__name__, message=str(error))
            await self._tell_broker(lambda broker: broker.dead_letter(share, problem))
        else:
            await self._acknowledge([share])

    async def _return_shares(self, receiving: asyncio.Task[list[Share]]) -> None:
        """End a receive for which nobody waits any longer, and give back what it brought."""
        receiving.cancel()
        await asyncio.wait({receiving})
        if receiving.cancelled() or receiving.exception() is not None or not receiving.result():
            return
        await self._tell_broker(lambda broker: broker.give_back(receiving.result()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._handing_back.add(task)
        task.add_done_callback(self._handing_back.discard)

    async def _hand_back(self, starting: asyncio.Task[list[Delivery]]) -> None:
        with contextlib.suppress(BackendUnavailable):  # then the lease runs out instead
            deliveries = await starting
            await self.abandon(
                [Abandonment(delivery=d, counts_as=CountsAs.RELEASE) for d in deliveries]
            )

    # done

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        """Record, then acknowledge.

        With ``connection`` it is recorded only: the message is acknowledged when the completion is
        told once more without, as the worker does, or dropped when it comes again.
        """
        if connection is None:
            return await self._record(self.ledger.complete, done)
        return await self.ledger.complete(done, connection=connection)

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        """Record; the relay sends a message of its own for the next attempt, when that is due."""
        return await self._record(self.ledger.abandon, back)

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        """Record: the dead letters are the ledger's."""
        return await self._record(self.ledger.dead_letter, dead)

    async def _record(
        self, verb: Callable[[Sequence[S]], Awaitable[Sequence[Delivery]]], settled: Sequence[S]
    ) -> Sequence[Delivery]:
        if not settled:
            return []
        lost = await verb(settled)
        # Also those that were lost: whoever has the job now has a message of its own.
        await self._acknowledge([share_of(one.delivery) for one in settled])
        return lost

    async def _acknowledge(self, shares: Sequence[Share]) -> None:
        await self._tell_broker(lambda broker: broker.complete(shares))

    async def _tell_broker(self, call: Callable[[Bundles], Awaitable[object]]) -> None:
        """What the broker does not hear is said again when the message comes again."""
        try:
            await call(await self._open_broker())
        except BackendError as error:
            log.warning("the broker could not be told; the messages will come again: %s", error)

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Keep both leases. The ledger's is the one that counts, and waits for no broker."""
        states = await self.ledger.extend(held, lease)
        limits = self.broker.capabilities
        kept = [
            share_of(one)
            for one, state in zip(held, states, strict=True)
            if state is not LeaseState.LOST
        ]
        if kept and limits.extends_leases:
            longest = lease if limits.max_lease is None else min(lease, limits.max_lease)
            self._keep_at_broker(kept, longest)
        return states

    def _keep_at_broker(self, shares: Sequence[Share], lease: timedelta) -> None:
        """Beside the caller; not while an earlier call is under way: the next one says it again.

        A heartbeat that waited for a slow broker would lose its leases in the ledger.
        """
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.ensure_future(
                self._tell_broker(lambda broker: broker.extend(shares, lease))
            )
            self._keeping.add_done_callback(_told)

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        """As the ledger counts: what waits there and what waits at the broker are both ready."""
        return await self.ledger.get_queue_depth(queue)

    # what SQL ledgers bring besides the two seams

    def enqueue_sync(self, messages: Sequence[Message], connection: Any) -> Sequence[str]:
        """:meth:`enqueue` in the transaction of a synchronous connection."""
        ledger: Any = self.ledger
        ids: Sequence[str] = ledger.enqueue_sync(messages, connection)
        return ids

    def complete_sync(self, done: Sequence[Completion], connection: Any) -> Sequence[Delivery]:
        """:meth:`complete` in the transaction of a synchronous connection."""
        ledger: Any = self.ledger
        lost: Sequence[Delivery] = ledger.complete_sync(done, connection)
        return lost

    def transaction(self) -> Any:
        """A connection to the ledger's database, in a transaction that commits at the end."""
        ledger: Any = self.ledger
        return ledger.transaction()

    def transaction_sync(self) -> Any:
        """:meth:`transaction` for synchronous code."""
        ledger: Any = self.ledger
        return ledger.transaction_sync()


def _heard(task: asyncio.Task[None]) -> None:
    """Its error, if it had one, was told or came too late to matter."""
    if not task.cancelled():
        task.exception()


def _told(task: asyncio.Task[None]) -> None:
    """Nobody waits for it: an error that was not foreseen must not go unheard."""
    if not task.cancelled() and (error := task.exception()):
        log.error("the broker could not be asked to keep messages", exc_info=error)


def _checked(broker: BackgroundJobQueue, ledger: BackgroundJobQueue) -> TrackingStore:
    if broker.capabilities.ledger:
        raise ConfigurationError(
            f"{type(broker).__name__} remembers its jobs itself: leave the ledger out"
        )
    if not isinstance(ledger, JobStore) or not isinstance(ledger, Outbox):
        raise ConfigurationError(
            f"{type(ledger).__name__} cannot be the ledger of a broker: choose SQLite or Postgres"
        )
    kept: Any = ledger
    store: TrackingStore = kept
    return store
