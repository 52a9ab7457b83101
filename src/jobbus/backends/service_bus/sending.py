"""Puts messages into queues: what is refused, when they are due, and how they are batched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from jobbus.errors import InvalidJob, PayloadTooLarge, Unsupported
from jobbus.ids import parse_id
from jobbus.message import Capabilities, Message
from jobbus.queue import LEDGER_REMEDY, refuse_beyond

from .failures import SESSIONS_SETTING

_ENVELOPE: Final = 1024
"""Bytes. It has the first message's id and session id, of at most 128 characters each."""


def check(message: Message, can: Capabilities) -> None:
    """Raises Unsupported, InvalidJob or PayloadTooLarge for what must not be sent."""
    if message.group is not None and not can.ordered_groups:
        raise Unsupported(
            f"{message.job_type} belongs to the group {message.group!r}, and Service Bus keeps "
            f"order in queues that require sessions only: set {SESSIONS_SETTING}=true and create "
            f"such queues, or {LEDGER_REMEDY}"
        )
    refuse_beyond(message, can, "Service Bus by itself")
    for name in (message.job_id, message.parent_id):
        if name is not None and parse_id(name) != name:
            raise InvalidJob(f"{name!r} is not a UUID in its usual form; job ids are")
    if message.delay < timedelta(0):
        raise InvalidJob(f"a delay cannot be negative: {message.delay}")
    if message.max_attempts < 1 or message.max_crashes < 1:
        raise InvalidJob("max_attempts and max_crashes must be at least 1")
    if len(message.payload) > can.max_payload:
        raise PayloadTooLarge(
            f"the payload of {message.job_type} has {len(message.payload)} bytes, the limit is "
            f"{can.max_payload}: store it elsewhere and pass a reference"
        )


async def send(sender: ServiceBusSender, messages: Sequence[ServiceBusMessage]) -> None:
    """In as few batches as they fit into; each is kept whole or not at all.

    Those of several sessions go in several: a partitioned queue refuses them in one
    (https://aka.ms/azsdk/net/servicebus/exceptions/troubleshoot).
    """
    by_session: dict[str | None, list[ServiceBusMessage]] = {}
    for message in messages:
        by_session.setdefault(message.session_id, []).append(message)
    for batch in by_session.values():
        await _send(sender, batch)


async def _send(sender: ServiceBusSender, messages: Sequence[ServiceBusMessage]) -> None:
    batch = await _new_batch(sender)
    for message in messages:
        try:
            batch.add_message(message)
            continue
        except MessageSizeExceededError:
            if len(batch):
                await sender.send_messages(batch)
        batch = await _new_batch(sender)
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            await sender.send_messages(message)  # it fits by itself, without a batch's overhead
    if len(batch):
        await sender.send_messages(batch)


async def _new_batch(sender: ServiceBusSender) -> ServiceBusMessageBatch:
    """One that leaves room for what the library puts around the messages, and does not count."""
    largest = (await sender.create_message_batch()).max_size_in_bytes
    return await sender.create_message_batch(max(largest - _ENVELOPE, 1))
