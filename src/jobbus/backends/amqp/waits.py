"""Takes messages out of the waits before they are due, for whoever moves them.

The waits are common to all queues, so that those of others come out as well. They go back as
copies, through what is left of their delays: returned as they are, a newer RabbitMQ would let them
go on too early after some time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from aiormq.abc import DeliveredMessage

from jobbus.message import NO_DELAY, Delivery

from . import envelope as wire
from .broker import Broker
from .consuming import Consumer, Receipt, Source, tag_of
from .letters import Letters, raise_first
from .topology import LEVELS

_AT_ONCE: Final = 500


class Waits:
    """What was found in the waits and not handed out yet, by queue."""

    def __init__(self, broker: Broker, letters: Letters) -> None:
        self._broker = broker
        self._letters = letters
        self._found: dict[str, list[Delivery]] = {}

    async def receive(self, queue: str, limit: int) -> Sequence[Delivery]:
        """Up to ``limit`` of this queue's; empty once all that were found are handed out."""
        consumer = await self._broker.consumer(queue, Source.DELAYED)
        found = self._found.get(queue)
        if found is None or any(each.receipt.consumer is not consumer for each in found):
            found = self._found[queue] = await self._look_through(consumer)
        page = found[:limit]
        del found[:limit]
        if not page:
            del self._found[queue]
        return page

    def rest(self, queue: str) -> list[Delivery]:
        """What was found and not handed out: the caller has it now."""
        return self._found.pop(queue, [])

    async def _look_through(self, consumer: Consumer) -> list[Delivery]:
        """From the longest wait to the shortest, as messages go."""
        found: list[Delivery] = []
        others: list[DeliveredMessage] = []
        for number in reversed(range(LEVELS)):
            place = self._letters.topology.level(number)
            while taken := await consumer.get(_AT_ONCE, place):
                for each in taken:
                    delivery = self._delivery(each, consumer)
                    if delivery is None:
                        others.append(each)
                    else:
                        found.append(delivery)
        await self._put_back(consumer, others)
        return found

    def _delivery(self, arrived: DeliveredMessage, consumer: Consumer) -> Delivery | None:
        """None for what is another queue's, or no message of jobbus's."""
        if _queue_of(arrived) != consumer.name:
            return None
        try:
            envelope = wire.envelope_of(arrived, consumer.name)
        except wire.Undecodable:
            return None
        due = datetime.fromtimestamp(envelope.available_at, UTC)
        return Delivery(
            message=replace(envelope.message, run_at=due),
            receipt=Receipt(consumer, tag_of(arrived)),
            attempt=envelope.attempts,
            failures=envelope.failures,
            crashes=envelope.crashes,
            enqueued_at=datetime.fromtimestamp(envelope.enqueued_at, UTC),
            wait=NO_DELAY,
        )

    async def _put_back(self, consumer: Consumer, others: Sequence[DeliveredMessage]) -> None:
        copies = {}
        strange = []
        for each in others:
            queue = _queue_of(each)
            try:
                if queue is None:
                    raise wire.Undecodable("nobody knows where it goes")
                copies[tag_of(each)] = self._letters.until_due(wire.envelope_of(each, queue))
            except wire.Undecodable:
                strange.append(tag_of(each))
        await consumer.put_back(strange)
        outcomes = await self._broker.send(list(copies.values()), ())
        sent = [tag for tag, error in zip(copies, outcomes, strict=True) if error is None]
        await consumer.acknowledge(sent)
        await consumer.put_back([tag for tag in copies if tag not in set(sent)])
        raise_first(outcomes)


def _queue_of(arrived: DeliveredMessage) -> str | None:
    """The queue that the message is for: what follows the bits in its routing key."""
    parts = str(arrived.routing_key or "").split(".", LEVELS)
    return parts[LEVELS] if len(parts) > LEVELS else None
