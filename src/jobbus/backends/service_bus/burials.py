"""Takes dead letters out again, for whoever moves them, under locks as any message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from azure.servicebus import ServiceBusReceivedMessage

from jobbus.job import Problem
from jobbus.message import DeadLetter, Delivery, Message

from .links import DEAD_LETTERS, Links
from .receiving import TIMED_OUT, Call, Clock, Receipt, receive
from .wire import Carried, Unreadable, read


async def receive_dead(
    links: Links, queue: str, entity: str, *, limit: int, wait: timedelta, clock: Clock
) -> Sequence[DeadLetter]:
    """Up to ``limit`` dead letters, as soon as there is one; empty after ``wait``."""
    found = await receive(
        links, queue, entity + DEAD_LETTERS, limit=limit, wait=wait, clock=clock, deliver=_delivery
    )
    return [_dead_letter(one) for one in found]


async def _delivery(received: ServiceBusReceivedMessage, call: Call, clock: Clock) -> Delivery:
    try:
        carried = read(received, call.queue)
    except Unreadable:
        body = received.body
        payload = b"".join(body) if not isinstance(body, bytes | str) else str(body).encode()
        carried = Carried(
            message=Message(job_id="", job_type="", payload=payload, queue=call.queue)
        )
    return Delivery(
        message=carried.message,
        receipt=Receipt(call.entity, received, call.receiver, carried),
        # The broker's count has locks in it that ran out, and later looks at the dead letter.
        attempt=carried.message.prior_attempts + max(received.delivery_count or 0, 1),
        failures=carried.failures,
        crashes=carried.crashes,
        enqueued_at=received.enqueued_time_utc or clock(),
        received_at=call.asked,
    )


def _dead_letter(delivery: Delivery) -> DeadLetter:
    received = delivery.receipt.received
    reason = received.dead_letter_reason or "unknown"
    return DeadLetter(
        delivery=delivery,
        problem=Problem(kind=reason, message=received.dead_letter_error_description or ""),
        timed_out=reason == TIMED_OUT,
    )
