"""One session in this process's hands: its lock, its messages, and what is written down of them.

Of a group one message at a time is handed out, and the next when that one is settled. A message
that is to be tried again stays in hand until it is due, so that none of its group overtakes it. Of
a lane many are handed out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import ServiceBusServerBusyError

from jobbus.message import Abandonment, CountsAs, Delivery

from .accounts import Account, decode, encode
from .failures import ANSWERS, BROKEN_LINK, LOST
from .hand_outs import Item, SessionReceipt, hand_out
from .lanes import is_lane
from .links import CALL_DEADLINE, MOST_REQUESTS
from .receiving import POISON, SLICE, End, poison_text
from .session_lock import SessionLock
from .wire import Unreadable, read

if TYPE_CHECKING:
    from .sessions import SessionPool

Act = Callable[[ServiceBusReceiver], Awaitable[object]]
TURN: Final = 10.0
"""Seconds that a session is kept although it has work, where another one waits."""
_IDLE: Final = 0.5
"""Seconds without a message after which a session is let go."""
_TICK: Final = 0.5
"""Seconds between looks at the clock, by which leases run out and retries fall due."""
_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()
_UNKNOWN: Final = b""
"""In place of a state that was sent, as long as nobody has said that it arrived."""
_MOST_OUT: Final = 200
"""Messages of one lane in workers' hands: each takes some forty bytes of the session's state."""


class HeldSession:
    """Lives on the loop of its pool."""

    def __init__(self, receiver: ServiceBusReceiver, pool: SessionPool) -> None:
        self.receiver = receiver
        self.id: str = receiver.session.session_id
        self.pool = pool
        self.grouped = not is_lane(self.id)
        self.retiring = False
        self.since = time.monotonic()
        """When its turn began."""
        self._lost = False
        self._accounts: dict[int, Account] = {}
        self._unseen: set[int] = set()
        """Of whom the state told, and who have not come yet."""
        self._written: bytes | None = None
        self._writes = 0
        self._stock: deque[Item] = deque()
        self._out: dict[int, SessionReceipt] = {}
        self._stir = asyncio.Event()
        self._writing = asyncio.Lock()
        self._lock = SessionLock(receiver, pool.clock, pool.lock_duration)
        self._last_work = time.monotonic()
        self._in_vain = False

    # what its pool asks

    @property
    def due(self) -> datetime | None:
        """When the group's first message may be tried again; None unless it waits for that."""
        if not self.grouped or self._out or not self._stock:
            return None
        due = self._stock[0].account.due
        return datetime.fromtimestamp(due, UTC) if due > self.pool.clock().timestamp() else None

    @property
    def busy(self) -> bool:
        return bool(self._out)

    @property
    def promising(self) -> bool:
        """It may well have a message now."""
        if self._lost or self.retiring or self.due or (self.grouped and self._out):
            return False
        return not self._in_vain

    @property
    def turn_is_over(self) -> bool:
        return not self.retiring and time.monotonic() - self.since >= TURN

    def stir(self) -> None:
        """Have it look anew at what is wanted."""
        self._stir.set()

    def retire(self) -> None:
        """Have it hand out nothing more, and leave once all is settled."""
        self.retiring = True
        self.stir()

    def lose(self) -> None:
        """Its lock is over: so are the leases under it."""
        self._lost = True
        for receipt in self._out.values():
            receipt.end = receipt.end or End.LOST
        self._out.clear()
        self.stir()

    # its life

    async def work(self) -> None:
        """Until the lock is lost, or the session has no work, had its turn, or is not wanted."""
        try:
            await self._load()
            while not self._lost:
                self._stir.clear()
                self.retiring |= self._writes + self._lock.renewals >= MOST_REQUESTS
                self._end_leases()
                if self._lost or self._leaves():
                    break
                self.pool.review()
                try:
                    if not await self._step():
                        await self._pause()
                except ServiceBusServerBusyError:
                    await asyncio.sleep(_TICK)
        except LOST:
            self.lose()
        except ANSWERS as error:
            self.pool.fail(error)
            self.lose()
        except BROKEN_LINK:
            # If the broker is away, whoever looks for the next session will tell.
            self.lose()
        finally:
            await self._leave()

    async def _load(self) -> None:
        async with asyncio.timeout(CALL_DEADLINE):
            self._written = await self.receiver.session.get_state()
        self._accounts = decode(self._written)
        self._unseen = set(self._accounts)
        for account in self._accounts.values():
            if account.out:
                account.crashed()

    async def _step(self) -> bool:
        """Hand out, or look for something to hand out; False where neither is wanted."""
        room = self._room()
        if room <= 0:
            return False
        if not self._stock:
            await self._fetch(room)
        if self._stock and self.due is None:
            await self._hand_out(self._room())
        return True

    def _room(self) -> int:
        if self.retiring or self.due is not None:
            return 0
        most = 1 if self.grouped else _MOST_OUT
        return min(self.pool.share(), most - len(self._out))

    async def _pause(self) -> None:
        if not self._out and self._lock.age >= 1 / 3:
            await self._lock.renew()  # while it is only kept; what is out, its worker keeps
        pause = _TICK
        if due := self.due:
            pause = min(pause, max((due - self.pool.clock()).total_seconds(), 0.01))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stir.wait()

    def _leaves(self) -> bool:
        if self._out:
            return False
        if self.retiring or self.pool.closed or self.pool.quiet:
            return True
        idle = time.monotonic() - self._last_work >= _IDLE
        return self._in_vain and idle and not self._stock

    async def _leave(self) -> None:
        try:
            # What else is written there names messages that are gone, or tells of a crash too many.
            with contextlib.suppress(*LOST, *ANSWERS, *BROKEN_LINK):
                if not self._lost:
                    await self._write()
        finally:
            self.lose()
            self.pool.left(self)

    # out

    async def _fetch(self, number: int) -> None:
        async with asyncio.timeout(SLICE + CALL_DEADLINE):
            found = await self.receiver.receive_messages(
                max_message_count=number, max_wait_time=SLICE
            )
        self._in_vain = not found
        if found:
            self._last_work = time.monotonic()
        await self._take_in(found)

    async def _take_in(self, found: Sequence[ServiceBusReceivedMessage]) -> None:
        # They come in order. Whom the state names, and who has not come by now, is gone.
        last = max((one.sequence_number or 0 for one in found), default=None)
        self._unseen = {n for n in self._unseen if last is not None and n > last}
        unreadable: list[tuple[ServiceBusReceivedMessage, str]] = []
        for one in found:
            try:
                carried = read(one, self.pool.queue)
            except Unreadable as problem:
                unreadable.append((one, str(problem)))
                continue
            account = self._accounts.setdefault(one.sequence_number or 0, Account())
            self._stock.append(Item(one, carried, account))
        for one, problem_text in unreadable:
            await self._bury(one, "undecodable", problem_text)

    async def _hand_out(self, number: int) -> None:
        items: list[Item] = []
        try:
            while self._stock and len(items) < number:
                items.append(self._stock.popleft())
                if await self._is_poison(items[-1]):
                    items.pop()
            deliveries = await self._lease(items)
        except BaseException:
            self._stock.extendleft(reversed(items))
            raise
        self.take_back(self.pool.hand_over(deliveries))

    async def _lease(self, items: Sequence[Item]) -> list[Delivery]:
        """Write down that these are out, under a lock that is fresh; then they are."""
        if not items:
            return []
        if self._lock.age >= 1 / 6:
            await self._lock.renew()
        for item in items:
            item.account.handed += 1
            item.account.out = True
        try:
            await self._write()
        except BaseException:
            for item in items:
                item.account.handed -= 1
                item.account.out = False
            raise
        return [self._delivery(item) for item in items]

    async def _is_poison(self, item: Item) -> bool:
        """Whether it has been through too many hands, and so is with the dead letters now."""
        crashes = item.carried.crashes + item.account.crashes
        if crashes < item.carried.message.max_crashes:
            return False
        await self._bury(item.received, POISON, poison_text(crashes))
        return True

    async def _bury(self, one: ServiceBusReceivedMessage, reason: str, text: str) -> None:
        async with asyncio.timeout(CALL_DEADLINE):
            await self.receiver.dead_letter_message(one, reason=reason, error_description=text)
        self._accounts.pop(one.sequence_number or 0, None)

    def _delivery(self, item: Item) -> Delivery:
        delivery = hand_out(item, self, self._lock)
        self._out[item.number] = delivery.receipt
        return delivery

    def take_back(self, deliveries: Iterable[Delivery]) -> None:
        """These were handed out to nobody: as if it had not been."""
        for delivery in reversed(list(deliveries)):
            receipt: SessionReceipt = delivery.receipt
            if self.holds(receipt):
                receipt.end = End.LOST
                receipt.item.account.handed -= 1
                receipt.item.account.out = False
                del self._out[receipt.item.number]
                self._stock.appendleft(receipt.item)
        self.stir()

    # back

    def holds(self, receipt: SessionReceipt) -> bool:
        """Whether this hand-out is still under its lease."""
        mine = self._out.get(receipt.item.number) is receipt
        return mine and receipt.end is None and receipt.valid_until > self.pool.clock()

    async def act(self, receipt: SessionReceipt, act: Act) -> bool:
        """Do something under the lock; False where it is lost, and with it the session."""
        if not self.holds(receipt):
            return False
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                await act(self.receiver)
        except LOST:
            self.lose()
            return False
        except ANSWERS:
            raise
        except BROKEN_LINK:
            # The lock is the link's, and cannot be held by another one.
            self.lose()
            return False
        return True

    def settled(self, receipt: SessionReceipt) -> None:
        """It is with the broker no longer, or with another session."""
        if self._out.get(receipt.item.number) is receipt:
            del self._out[receipt.item.number]
        elif receipt.item in self._stock and receipt.end is not End.LOST:
            self._stock.remove(receipt.item)  # the lease ended while the broker was being told
        else:
            return
        self._accounts.pop(receipt.item.number, None)
        self._last_work = time.monotonic()
        self.stir()

    async def put_back(self, receipt: SessionReceipt, back: Abandonment) -> bool:
        """Keep the group's first message, for another attempt when the delay is over."""
        account = receipt.item.account
        before = replace(account)
        account.out = False
        account.failures += back.counts_as is CountsAs.FAILURE
        account.crashes += back.counts_as is CountsAs.CRASH
        if back.delay > timedelta(0):
            due = self.pool.clock().timestamp() + back.delay.total_seconds()
            account.due = min(due, _END_OF_TIME)

        async def write(receiver: ServiceBusReceiver) -> None:
            await self._write()

        kept = False
        try:
            kept = await self.act(receipt, write) and self.holds(receipt)
        finally:
            if not kept:
                account.handed, account.failures = before.handed, before.failures
                account.crashes, account.due, account.out = before.crashes, before.due, before.out
        if kept:
            receipt.end = End.ABANDONED
            del self._out[receipt.item.number]
            self._stock.appendleft(receipt.item)
            self.stir()
        return kept

    async def renew(self, receipt: SessionReceipt) -> bool:
        """Renew the session's lock, and so this lease; the session's other leases run on."""

        async def renew(receiver: ServiceBusReceiver) -> None:
            await self._lock.renew()

        if not await self.act(receipt, renew) or not self.holds(receipt):
            return False
        receipt.valid_until = self._lock.valid_until
        return True

    async def _write(self) -> None:
        """Set the session's state to what is known now, if it says otherwise."""
        async with self._writing:
            here = self._unseen | set(self._out) | {item.number for item in self._stock}
            here |= {number for number, one in self._accounts.items() if one.out}
            blank = Account()
            kept = {n: one for n, one in self._accounts.items() if n in here and one != blank}
            state = encode(kept)
            if state == self._written:
                return
            self._written = _UNKNOWN
            self._writes += 1
            async with asyncio.timeout(CALL_DEADLINE):
                await self.receiver.session.set_state(state)
            self._written = state

    def _end_leases(self) -> None:
        """Leases that nobody renewed are over: their workers are counted as dead."""
        now = self.pool.clock()
        for number, receipt in list(self._out.items()):
            if receipt.valid_until <= now:
                receipt.end = End.LOST
                receipt.item.account.crashed()
                del self._out[number]
                self._stock.appendleft(receipt.item)
                if not self._out:
                    # Nobody has renewed the lock either. The state says who was out.
                    self._lost = True
