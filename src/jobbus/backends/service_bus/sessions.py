"""The sessions of one open queue object: who is held, for how long, and who gets what comes.

They live on a loop and a thread of their own. A worker that blocks its loop, or whose heartbeat has
a loop of its own, renews and settles there all the same. A session is looked for while somebody
receives, and let go when it has no work, has had its turn, or nobody receives any longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import OperationTimeoutError, ServiceBusAuthorizationError

from jobbus.errors import BackendUnavailable
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery

from .hand_outs import SessionReceipt
from .held import HeldSession
from .lanes import CHECKS
from .links import Links
from .portal import Portal
from .receiving import LEAST_WAIT, Clock, End
from .session_settling import SessionSettling

S = TypeVar("S", Completion, Abandonment, DeadLetter)
T = TypeVar("T")
Verb = Literal["complete", "abandon", "dead_letter"]
MAX_SESSIONS: Final = 32
"""Of one queue, at work at one time. Each has a connection of its own."""
PARKED: Final = 64
"""Groups that are kept while their first message waits for its retry, beyond those at work."""
QUIET: Final = 2.0
"""Seconds after the last receive when sessions that have nothing out are let go."""
_ACCEPTING: Final = 8
"""Links that look for sessions at one time, as long as each finds one; else fewer, down to one.
Opening one takes half a second."""
_PATIENCE: Final = 20.0
"""Seconds that such a link waits for a session before another one is opened."""
_CLOSING: Final = 5.0


class _Ended(Exception):
    """The thread of these sessions has ended, and their locks with it."""


class Ask:
    """A receive that waits."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.answer: asyncio.Future[Sequence[Delivery]] | None = None
        """Made on the sessions' own loop."""
        self.withdrawn = False


class SessionPool:
    """The sessions of one queue. Used on the sessions' own loop only."""

    def __init__(self, home: Sessions, queue: str, entity: str) -> None:
        self.queue = queue
        self.entity = entity
        self.clock = home.clock
        self.lock_duration = home.lock_duration
        self.closed = False
        self.home = home
        self._asks: deque[Ask] = deque()
        self._last_ask = time.monotonic()
        self._held: dict[HeldSession, asyncio.Task[None]] = {}
        self._accepting: set[asyncio.Task[None]] = set()
        self._looking = 2
        """How many links may look for sessions, going by what the last ones found."""
        self._rotating = False

    async def receive(self, ask: Ask, wait: float) -> Sequence[Delivery]:
        """What comes first, up to the ask's limit; nothing after ``wait`` seconds."""
        if self.closed:
            raise BackendUnavailable("the queue is closed")
        if ask.withdrawn:
            return []
        answer = ask.answer = asyncio.get_running_loop().create_future()
        self._asks.append(ask)
        self.review(stir=True)
        try:
            await asyncio.wait({answer}, timeout=wait)
        finally:
            self._forget(ask)
        return answer.result() if answer.done() else []

    def withdraw(self, ask: Ask) -> None:
        """Nobody waits for the answer any longer: what it brings goes back."""
        self._forget(ask)
        if ask.answer is None:
            return
        if not ask.answer.done():
            ask.answer.set_result([])
        elif ask.answer.exception() is None:
            for delivery in ask.answer.result():
                delivery.receipt.session.take_back([delivery])

    def _forget(self, ask: Ask) -> None:
        if ask in self._asks:
            self._asks.remove(ask)
        self._last_ask = time.monotonic()
        asyncio.get_running_loop().call_later(QUIET + 0.1, self._calm)

    def _calm(self) -> None:
        if self.quiet:
            for task in self._accepting:
                task.cancel()
            self._stir_all()

    def _stir_all(self) -> None:
        for session in self._held:
            session.stir()

    # what the sessions ask

    @property
    def quiet(self) -> bool:
        """Nobody receives, nor has for a while."""
        return not self._asks and time.monotonic() - self._last_ask >= QUIET

    def share(self) -> int:
        """How many messages one session should look for."""
        wanted = sum(ask.limit for ask in self._asks)
        able = sum(session.promising for session in self._held)
        return -(-wanted // max(able, 1))

    def hand_over(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """To those who wait; returns what nobody waits for."""
        rest = list(deliveries)
        while rest and self._asks:
            ask = self._asks.popleft()
            if ask.answer is not None and not ask.answer.done():
                ask.answer.set_result(rest[: ask.limit])
                del rest[: ask.limit]
        return rest

    def fail(self, error: Exception) -> None:
        """Tell those who wait."""
        while self._asks:
            ask = self._asks.popleft()
            if ask.answer is not None and not ask.answer.done():
                ask.answer.set_exception(error)

    def left(self, session: HeldSession) -> None:
        self._held.pop(session, None)
        self.home.leave(session.receiver)
        self.review()

    # how many are held

    def review(self, *, stir: bool = False) -> None:
        """Look for more sessions where there are too few, and let go of one that is too many."""
        if self.closed:
            return
        working = [one for one in self._held if one.due is None]
        parked = [one for one in self._held if one.due is not None and not one.retiring]
        if len(parked) > PARKED:
            max(parked, key=lambda one: one.due or self.clock()).retire()
        room = self.home.most - len(working) - len(self._accepting)
        able = sum(one.promising for one in working)
        wanted = sum(ask.limit for ask in self._asks) - able
        need = min(wanted, self._looking) - len(self._accepting)
        if min(need, room) <= 0 and self._asks and not self._accepting:
            # Whoever has had its turn makes way, if anybody waits.
            self._rotating = any(one.turn_is_over for one in working)
            need = room = int(self._rotating)
        for _ in range(min(need, room)):
            task = asyncio.get_running_loop().create_task(self._accept())
            self._accepting.add(task)
            task.add_done_callback(self._accepted)
        if stir:
            self._stir_all()

    def _accepted(self, task: asyncio.Task[None]) -> None:
        self._accepting.discard(task)
        self.home.look_around()
        self.review()  # those who wait still do, whether or not it found one

    async def _accept(self) -> None:
        """Find one more session with work, and start on it."""
        try:
            receiver = await self.home.links.accept(self.entity, None, _PATIENCE)
        except OperationTimeoutError:
            self._looking = 1
            self._renew_turns()
            return
        except Exception as error:
            self.fail(error)
            return
        self._looking = min(2 * self._looking, _ACCEPTING)
        session = HeldSession(receiver, self)
        for other in [one for one in self._held if one.id == session.id]:
            other.lose()  # or it could not have been had
        if self._rotating:
            self._make_room()
        self._held[session] = asyncio.get_running_loop().create_task(session.work())
        if self.closed:
            session.retire()

    def _renew_turns(self) -> None:
        """Nobody else has work: who is at work may go on."""
        for session in self._held:
            if session.turn_is_over:
                session.since = time.monotonic()

    def _make_room(self) -> None:
        """The session that has had its turn for longest makes way for one that waits."""
        self._rotating = False
        over = [one for one in self._held if one.turn_is_over and one.due is None]
        if over:
            min(over, key=lambda one: one.since).retire()

    async def close(self) -> None:
        """End what waits, and let go of every session that has nothing out."""
        self.closed = True
        self.fail(BackendUnavailable("the queue was closed"))
        for task in self._accepting:
            task.cancel()
        self._stir_all()
        idle = [task for one, task in self._held.items() if not one.busy]
        idle += self._accepting
        if idle:
            await asyncio.wait(idle, timeout=_CLOSING)

    @property
    def empty(self) -> bool:
        return not self._held and not self._accepting


class Sessions:
    """From one opening of a queue object to its closing, and until its last lease is over."""

    def __init__(
        self,
        connect: Callable[[], ServiceBusClient],
        clock: Clock,
        lock_duration: timedelta,
        most: int,
    ) -> None:
        self.clock = clock
        self.lock_duration = lock_duration
        self.most = most
        self.portal = Portal("jobbus-service-bus-sessions")
        self.links = Links(connect)
        self.settling = SessionSettling(self.links, clock)
        self._pools: dict[str, SessionPool] = {}
        self._closed = False
        self._ending: asyncio.Task[None] | None = None

    async def receive(
        self, queue: str, entity: str, *, limit: int, wait: timedelta
    ) -> Sequence[Delivery]:
        """From any loop. Cancelled, it gives back what came."""
        ask = Ask(limit)
        seconds = max(wait.total_seconds(), LEAST_WAIT)
        try:
            return await self.portal.run(lambda: self._receive(queue, entity, ask, seconds))
        except asyncio.CancelledError:
            self.portal.call(lambda: self._withdraw(entity, ask))
            raise

    async def _receive(
        self, queue: str, entity: str, ask: Ask, seconds: float
    ) -> Sequence[Delivery]:
        return await self._pool(queue, entity).receive(ask, seconds)

    def _withdraw(self, entity: str, ask: Ask) -> None:
        ask.withdrawn = True
        if pool := self._pools.get(entity):
            pool.withdraw(ask)

    async def settle(self, items: Sequence[S], verb: Verb) -> list[Delivery]:
        """From any loop. Returns those whose lease was lost."""
        act: Callable[[S], Awaitable[bool]] = getattr(self.settling, verb)
        held = [item.delivery for item in items]
        with contextlib.suppress(_Ended):
            return await self._run(lambda: self.settling.lost(held, items, act))
        for one in held:
            one.receipt.end = one.receipt.end or End.LOST
        return await self.settling.lost(held, items, act)  # from memory: there is nobody to ask

    async def renew(self, receipts: Sequence[SessionReceipt]) -> list[bool]:
        """From any loop. Whether each was held."""
        settling = self.settling
        with contextlib.suppress(_Ended):
            return await self._run(lambda: settling.each([settling.renew(r) for r in receipts]))
        return [False] * len(receipts)

    async def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await self.portal.run(work)
        except BackendUnavailable:
            if self.portal.ended:
                raise _Ended from None
            raise

    def _pool(self, queue: str, entity: str) -> SessionPool:
        if entity not in self._pools:
            if self._closed:
                raise BackendUnavailable("the queue is closed")
            self._pools[entity] = SessionPool(self, queue, entity)
        return self._pools[entity]

    async def close(self) -> None:
        """From any loop. Sessions with messages out stay until those are settled, or lapse."""
        if not self.portal.ended:
            await self.portal.run(self._close)

    async def _close(self) -> None:
        self._closed = True
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        self.look_around()
        if self._ending is not None:
            await asyncio.wait({self._ending}, timeout=_CLOSING)

    def leave(self, receiver: ServiceBusReceiver) -> None:
        """A session is over; on the sessions' own loop."""
        self.links.leave(receiver)
        self.look_around()

    def look_around(self) -> None:
        """End, if closed and with no session left."""
        if self._closed and self._ending is None and all(p.empty for p in self._pools.values()):
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self.links.close()
        self.portal.end()


def _home(delivery: Delivery) -> Sessions:
    receipt: SessionReceipt = delivery.receipt
    return receipt.session.pool.home


def _by_home(deliveries: Sequence[Delivery]) -> dict[Sessions, list[int]]:
    found: dict[Sessions, list[int]] = {}
    for index, delivery in enumerate(deliveries):
        found.setdefault(_home(delivery), []).append(index)
    return found


async def settle(items: Sequence[S], verb: Verb) -> list[Delivery]:
    """Through the sessions that the deliveries came in, whichever queue object those belong to.

    From any loop. Returns those whose lease was lost.
    """
    held = [item.delivery for item in items]
    lost: set[int] = set()
    for home, indices in _by_home(held).items():
        gone = await home.settle([items[index] for index in indices], verb)
        lost |= {id(one) for one in gone}
    return [one for one in held if id(one) in lost]


async def extend(held: Sequence[Delivery]) -> list[bool]:
    """Renew the sessions that the deliveries came in; from any loop. Whether each was held."""
    kept = [False] * len(held)
    for home, indices in _by_home(held).items():
        answers = await home.renew([held[index].receipt for index in indices])
        for index, answer in zip(indices, answers, strict=True):
            kept[index] = answer
    return kept


async def check_sessions(links: Links, entity: str) -> None:
    """Raises the client library's error for a queue that does not require sessions.

    Whoever may not receive has nothing to check: then it is for the receivers to see.
    """
    name = f"{CHECKS}{secrets.token_hex(8)}"
    with contextlib.suppress(ServiceBusAuthorizationError):
        links.leave(await links.accept(entity, name, _PATIENCE))
