"""Counts a queue by looking at its messages, which is all that Send and Listen rights allow."""

from __future__ import annotations

from datetime import timedelta
from operator import methodcaller
from typing import Final

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage

from jobbus.message import QueueDepth

from .links import DEAD_LETTERS, Links
from .receiving import Clock

_PAGE: Final = 250
_COUNTED: Final = 1000
"""Of more it says that there are so many."""


async def count(links: Links, entity: str, clock: Clock) -> QueueDepth:
    """Messages in workers' hands count as ready: the broker does not tell them apart."""
    waiting = await _peek(links, entity)
    dead = await _peek(links, entity + DEAD_LETTERS)
    ready = [one for one in waiting if one.state is ServiceBusMessageState.ACTIVE]
    since = min((one.enqueued_time_utc for one in ready if one.enqueued_time_utc), default=None)
    return QueueDepth(
        ready=len(ready),
        delayed=sum(one.state is ServiceBusMessageState.SCHEDULED for one in waiting),
        dead=len(dead),
        oldest_age=None if since is None else max(clock() - since, timedelta(0)),
    )


async def _peek(links: Links, entity: str) -> list[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    start = 1
    while len(found) < _COUNTED:
        look = methodcaller("peek_messages", _PAGE, sequence_number=start)
        page: list[ServiceBusReceivedMessage] = await links.with_receiver(entity, look)
        if not page:
            break
        found += page
        start = (page[-1].sequence_number or start) + 1
    return found[:_COUNTED]
