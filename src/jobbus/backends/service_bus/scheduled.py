"""Scheduled messages, for whoever moves them: seen by peeking, taken away by their number.

There is no lock on what is not due. So nothing is handed out that falls due soon: whoever has it
must be done with it before a worker can receive it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import methodcaller
from typing import Final

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage
from azure.servicebus.exceptions import MessageNotFoundError

from jobbus.message import Delivery

from .failures import told
from .links import Links
from .receiving import Clock
from .wire import Unreadable, read

_PAGE: Final = 250
_SOON: Final = timedelta(minutes=1)


@dataclass(slots=True, eq=False)
class Appointment:
    """A scheduled message that was handed out; nothing at the broker tells of that."""

    schedule: Schedule
    entity: str
    number: int
    cancelled: bool = False

    async def cancel(self) -> bool:
        """Take it away; False where it is gone, or has fallen due."""
        if not self.cancelled:
            self.cancelled = await self.schedule.cancel(self)
        self.drop()
        return self.cancelled

    def drop(self) -> None:
        """Leave it as it is."""
        self.schedule.lent.discard((self.entity, self.number))


class Schedule:
    """The scheduled messages of all queues."""

    def __init__(self, links: Links, clock: Clock) -> None:
        self._links = links
        self._clock = clock
        self.lent: set[tuple[str, int]] = set()
        """What was handed out and not settled."""

    async def receive(self, queue: str, entity: str, limit: int) -> Sequence[Delivery]:
        """Up to ``limit`` that are not lent, nor due within a minute; empty at the end."""
        found: list[Delivery] = []
        start = 1
        while len(found) < limit:
            look = methodcaller("peek_messages", _PAGE, sequence_number=start)
            page: list[ServiceBusReceivedMessage] = await self._links.with_receiver(entity, look)
            if not page:
                break
            start = (page[-1].sequence_number or start) + 1
            found += [one for each in page if (one := self._delivery(each, queue, entity))]
        for one in found[:limit]:
            self.lent.add((entity, one.receipt.number))
        return found[:limit]

    def _delivery(
        self, peeked: ServiceBusReceivedMessage, queue: str, entity: str
    ) -> Delivery | None:
        due, number = peeked.scheduled_enqueue_time_utc, peeked.sequence_number
        if peeked.state is not ServiceBusMessageState.SCHEDULED or due is None or number is None:
            return None
        if (entity, number) in self.lent or due < self._clock() + _SOON:
            return None
        try:
            carried = read(peeked, queue)
        except Unreadable:
            return None
        return Delivery(
            message=replace(carried.message, run_at=due),
            receipt=Appointment(self, entity, number),
            attempt=carried.message.prior_attempts,
            failures=carried.failures,
            crashes=carried.crashes,
            enqueued_at=peeked.enqueued_time_utc or self._clock(),
        )

    async def cancel(self, one: Appointment) -> bool:
        """Take it away; False where it is gone, or has fallen due."""
        with told(f"cancelling a scheduled message of queue {one.entity!r}"):
            try:
                await self._links.with_sender(
                    one.entity, lambda sender: sender.cancel_scheduled_messages([one.number])
                )
            except MessageNotFoundError:
                return False
        return True
