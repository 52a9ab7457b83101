"""Ends deliveries at the broker, or renews their locks; a lost lock is an answer, not an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import ClassVar, Final, TypeVar

from azure.servicebus.aio import ServiceBusReceiver

from jobbus.message import Abandonment, Completion, DeadLetter, Delivery

from .failures import LOST, told
from .links import DEAD_LETTERS, Links
from .receiving import TIMED_OUT, Clock, End, Receipt
from .scheduled import Appointment
from .wire import write

T = TypeVar("T")
_AT_ONCE: Final = 32
"""Settlements and renewals on their way at one time."""
_REASON: Final = 128
_DESCRIPTION: Final = 2048
"""Characters of a dead letter's reason and description; Service Bus takes 4096 bytes of each."""


class Settling:
    """Each verb answers whether the lock was held."""

    sessions: ClassVar[bool] = False
    """Whether the queues require them."""

    def __init__(self, links: Links, clock: Clock) -> None:
        self._links = links
        self._clock = clock
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def lost(
        self, held: Sequence[Delivery], items: Sequence[T], act: Callable[[T], Awaitable[bool]]
    ) -> list[Delivery]:
        """Settle all, each delivery once, as its first item says; return those that were lost."""
        pairs = reversed(list(zip(held, items, strict=True)))
        first = {id(one.receipt): item for one, item in pairs}
        answers = await self.each([act(item) for item in first.values()])
        kept = dict(zip(first, answers, strict=True))
        return [one for one in held if not kept[id(one.receipt)]]

    async def each(self, works: Sequence[Awaitable[T]]) -> list[T]:
        """The answers to all, some of them at a time. Raises an error once all have ended."""

        async def bounded(work: Awaitable[T]) -> T:
            async with self._at_once:
                return await work

        answers = await asyncio.gather(*map(bounded, works), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def complete(self, done: Completion) -> bool:
        receipt: Receipt | Appointment = done.delivery.receipt
        if isinstance(receipt, Appointment):
            return await receipt.cancel()
        if receipt.end is not None:
            return receipt.end is End.COMPLETED
        return await self._end(receipt, End.COMPLETED)

    async def dead_letter(self, dead: DeadLetter) -> bool:
        receipt: Receipt = dead.delivery.receipt
        reason = TIMED_OUT if dead.timed_out else dead.problem.kind

        async def bury(receiver: ServiceBusReceiver) -> None:
            await receiver.dead_letter_message(
                receipt.received,
                reason=_clean(reason)[:_REASON],
                error_description=_clean(dead.problem.message)[:_DESCRIPTION],
            )

        if receipt.end is not None:
            return receipt.end is End.DEAD
        return await self._end(receipt, End.DEAD, bury)

    async def abandon(self, back: Abandonment) -> bool:
        """Send a copy for the next attempt first, and complete this delivery then."""
        receipt: Receipt | Appointment = back.delivery.receipt
        if isinstance(receipt, Appointment):
            receipt.drop()
            return True
        if receipt.end is not None:
            return receipt.end is End.ABANDONED
        if receipt.entity.endswith(DEAD_LETTERS):
            return await self._end(receipt, End.ABANDONED, _release(receipt))
        # The lock before all: whoever has lost it must not send a copy of another's job.
        if not await self.renew(receipt):
            return False
        if receipt.copy is None:
            receipt.copy = await self._send_copy(back, receipt)
        if await self._end(receipt, End.ABANDONED):
            return True
        if numbers := receipt.copy:
            # Lost in between: whoever has the message now sends a copy of his own.
            with told(f"calling a job back from queue {receipt.entity!r}"):
                await self._links.with_sender(
                    receipt.entity,
                    lambda sender: sender.cancel_scheduled_messages(numbers),
                    asks=True,
                )
        return False

    async def _send_copy(self, back: Abandonment, receipt: Receipt) -> list[int]:
        again = receipt.carried.again(back.delivery, back.counts_as)
        entity = receipt.entity
        with told(f"handing a job back to queue {entity!r}"):
            if back.delay <= timedelta(0):
                copy = write(again, None, sessions=self.sessions)
                await self._links.with_sender(entity, lambda sender: sender.send_messages(copy))
                return []
            due = self._clock() + back.delay
            later = write(again, due, sessions=self.sessions)
            return await self._links.with_sender(
                entity, lambda sender: sender.schedule_messages(later, due), asks=True
            )

    async def renew(self, receipt: Receipt | Appointment) -> bool:
        """Whether the lock is held still; what is scheduled has none to lose."""
        if isinstance(receipt, Appointment):
            return True

        async def renew(receiver: ServiceBusReceiver) -> None:
            await receiver.renew_message_lock(receipt.received)

        return receipt.end is None and await self._act(receipt, renew)

    async def _end(
        self,
        receipt: Receipt,
        end: End,
        act: Callable[[ServiceBusReceiver], Awaitable[None]] | None = None,
    ) -> bool:
        """Settle at the broker, by default complete; False when the lock had been lost."""

        async def complete(receiver: ServiceBusReceiver) -> None:
            await receiver.complete_message(receipt.received)

        receipt.end = end if await self._act(receipt, act or complete) else End.LOST
        return receipt.end is end

    async def _act(
        self, receipt: Receipt, act: Callable[[ServiceBusReceiver], Awaitable[None]]
    ) -> bool:
        with told(f"settling or renewing a message of queue {receipt.entity!r}"):
            try:
                await self._links.with_receiver(receipt.entity, act, receipt.receiver)
            except LOST:
                return False
        return True


def _release(receipt: Receipt) -> Callable[[ServiceBusReceiver], Awaitable[None]]:
    """Back among the dead letters, to which nobody can send a copy."""

    async def release(receiver: ServiceBusReceiver) -> None:
        await receiver.abandon_message(receipt.received)

    return release


def _clean(text: str) -> str:
    """Text that AMQP can carry: half characters are replaced."""
    return text.encode("utf-8", "replace").decode()
