"""Takes messages out of queues, under locks: what is handed out, and what is set aside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from jobbus.errors import BackendUnavailable
from jobbus.message import Delivery

from .failures import ANSWERS, BROKEN_LINK
from .links import CALL_DEADLINE, Links
from .wire import Carried, Unreadable, read

Clock = Callable[[], datetime]
SLICE: Final = 0.3
"""Seconds of one receive call. The library sees a message that a settling call has read for it
only at the next one; and a lock's age is known as exactly as this."""
LEAST_WAIT: Final = 0.1
"""Seconds: the broker must have the time to answer that it has nothing."""
POISON: Final = "poison_crash"
"""Why a job that its workers do not survive is dead."""


TIMED_OUT: Final = "timed_out"
"""The reason of a dead letter whose last attempt ran out of time."""


def poison_text(crashes: int) -> str:
    return f"{crashes} workers died, or lost touch, with this job in their hands"


class End(Enum):
    """What became of a lock."""

    COMPLETED = "completed"
    ABANDONED = "abandoned"
    DEAD = "dead"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Receipt:
    """A lock in this process's hands, and how it ended."""

    entity: str
    received: ServiceBusReceivedMessage
    receiver: ServiceBusReceiver
    carried: Carried
    end: End | None = None
    copy: list[int] | None = None
    """What was sent for the next attempt, by sequence number; empty where it was not scheduled."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call for messages: by which receiver, for which queue, and when it was made."""

    queue: str
    entity: str
    receiver: ServiceBusReceiver
    asked: float
    """Monotonic seconds."""


Deliver = Callable[[ServiceBusReceivedMessage, Call, Clock], Awaitable[Delivery | None]]
"""Makes a delivery of what came; None for what went elsewhere instead."""


async def receive(
    links: Links,
    queue: str,
    entity: str,
    *,
    limit: int,
    wait: timedelta,
    clock: Clock,
    deliver: Deliver | None = None,
) -> Sequence[Delivery]:
    """Up to ``limit`` deliveries, as soon as there is one; empty after ``wait``."""
    deliver = deliver or _delivery
    deadline = time.monotonic() + max(wait.total_seconds(), LEAST_WAIT)

    async def look(receiver: ServiceBusReceiver) -> Sequence[Delivery]:
        while True:
            if links.closed:
                raise BackendUnavailable("the queue was closed")
            call = Call(queue, entity, receiver, time.monotonic())
            # At least one look, also where opening the link took all of the wait.
            length = min(max(deadline - call.asked, LEAST_WAIT), SLICE)
            async with asyncio.timeout(length + CALL_DEADLINE):
                found = await receiver.receive_messages(
                    max_message_count=limit, max_wait_time=length
                )
            deliveries = [await deliver(one, call, clock) for one in found]
            kept = [one for one in deliveries if one is not None]
            if kept or time.monotonic() >= deadline:
                return kept

    try:
        async with links.receiver(entity) as receiver:
            return await look(receiver)
    except ANSWERS:
        raise
    except BROKEN_LINK:
        # The broker detaches links that were idle for ten minutes. That is no failure.
        async with links.receiver(entity, fresh=True) as receiver:
            return await look(receiver)


async def _delivery(
    received: ServiceBusReceivedMessage, call: Call, clock: Clock
) -> Delivery | None:
    """The delivery; None for what went to the dead letters instead."""
    try:
        carried = read(received, call.queue)
    except Unreadable as problem:
        await _bury(call, received, "undecodable", str(problem))
        return None
    # All other ways back are copies with a count of their own: these are locks that ran out.
    lapsed = received.delivery_count or 0
    crashes = carried.crashes + lapsed
    if crashes >= carried.message.max_crashes:
        await _bury(call, received, POISON, poison_text(crashes))
        return None
    now = clock()
    enqueued = received.enqueued_time_utc or now
    return Delivery(
        message=carried.message,
        receipt=Receipt(call.entity, received, call.receiver, carried),
        attempt=carried.message.prior_attempts + lapsed + 1,
        failures=carried.failures,
        crashes=crashes,
        enqueued_at=enqueued,
        wait=max(now - enqueued, timedelta(0)),
        received_at=call.asked,
    )


async def _bury(call: Call, received: ServiceBusReceivedMessage, reason: str, text: str) -> None:
    async with asyncio.timeout(CALL_DEADLINE):
        await call.receiver.dead_letter_message(received, reason=reason, error_description=text)
