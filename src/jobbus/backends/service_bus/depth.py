"""Counts a queue by looking at its messages, which is all that Send and Listen rights allow.

A receiver looks at a queue, or where sessions are required at its own session only. The broker lets
any link look at all of them, but the client library offers that on receivers alone: so this module
makes the request as the library does, through its internals, on a sender's link.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from operator import methodcaller
from typing import Any, Final

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage
from azure.servicebus._common.constants import (
    MGMT_REQUEST_FROM_SEQUENCE_NUMBER,
    MGMT_REQUEST_MAX_MESSAGE_COUNT,
    REQUEST_RESPONSE_PEEK_OPERATION,
)
from azure.servicebus._common.mgmt_handlers import peek_op

from jobbus.message import QueueDepth

from .links import CALL_DEADLINE, DEAD_LETTERS, Links
from .receiving import Clock

Look = Callable[[Links, str, int], Awaitable[list[ServiceBusReceivedMessage]]]
_PAGE: Final = 250
_COUNTED: Final = 1000
"""Of more it says that there are so many."""


async def count(links: Links, entity: str, clock: Clock, *, sessions: bool) -> QueueDepth:
    """Messages in workers' hands count as ready: the broker does not tell them apart.

    So do those of a group whose first is waiting for its retry.
    """
    waiting = await (_collect(links, entity, _peek_all) if sessions else _peek(links, entity))
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
    return await _collect(links, entity, _peek_by_receiver)


async def _collect(links: Links, entity: str, look: Look) -> list[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    start = 1
    while len(found) < _COUNTED:
        page = await look(links, entity, start)
        if not page:
            break
        found += page
        start = (page[-1].sequence_number or start) + 1
    return found[:_COUNTED]


async def _peek_by_receiver(
    links: Links, entity: str, start: int
) -> list[ServiceBusReceivedMessage]:
    look = methodcaller("peek_messages", _PAGE, sequence_number=start)
    found: list[ServiceBusReceivedMessage] = await links.with_receiver(entity, look)
    return found


async def _peek_all(links: Links, entity: str, start: int) -> list[ServiceBusReceivedMessage]:
    async def look(sender: Any) -> list[ServiceBusReceivedMessage]:
        transport = sender._amqp_transport
        found: list[ServiceBusReceivedMessage] = await sender._mgmt_request_response_with_retry(
            REQUEST_RESPONSE_PEEK_OPERATION,
            {
                MGMT_REQUEST_FROM_SEQUENCE_NUMBER: transport.AMQP_LONG_VALUE(start),
                MGMT_REQUEST_MAX_MESSAGE_COUNT: _PAGE,
            },
            partial(peek_op, receiver=sender, amqp_transport=transport),
            keep_alive_associated_link=False,
            timeout=CALL_DEADLINE,
        )
        return found

    return await links.with_sender(entity, look, asks=True)
