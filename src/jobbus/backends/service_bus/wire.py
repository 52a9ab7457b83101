"""A job's message as Service Bus carries it, and back.

The body is the payload, byte for byte. The message id is :attr:`Message.id`, so that duplicate
detection drops a resend and lets a retry through. The subject is the job type. Everything else
stands in application properties, where operators can read and filter it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from jobbus.errors import BackendError, PayloadTooLarge
from jobbus.ids import parse_id
from jobbus.message import CountsAs, Delivery, Message

from .lanes import group_of, group_property, session_of

PROPERTIES_LIMIT: Final = 32_000
"""Bytes. Service Bus takes 32 KiB for one property, and 64 KiB for all of them with the header."""
_VERSION: Final = 1


class Unreadable(BackendError):
    """The broker holds a message that no jobbus has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A message with the accounts that travel with it."""

    message: Message
    failures: int = 0
    crashes: int = 0

    def again(self, delivery: Delivery, counts_as: CountsAs) -> Carried:
        """The message of the next attempt, after this delivery ended in ``counts_as``."""
        return Carried(
            message=replace(self.message, prior_attempts=delivery.attempt),
            failures=delivery.failures + (counts_as is CountsAs.FAILURE),
            crashes=delivery.crashes + (counts_as is CountsAs.CRASH),
        )


def write(carried: Carried, due: datetime | None, *, sessions: bool = False) -> ServiceBusMessage:
    """The message to send, with a session id where the queue requires ``sessions``.

    Raises PayloadTooLarge for headers, tags and metadata beyond a limit.
    """
    message = carried.message
    session_id = session_of(message.group, message.job_id) if sessions else None
    told = [*_properties(carried), ("group", group_property(message.group, session_id))]
    properties: dict[Any, Any] = {name: value for name, value in told if value is not None}
    size = sum(len(str(value).encode("utf-8", "surrogatepass")) for value in properties.values())
    if size > PROPERTIES_LIMIT:
        raise PayloadTooLarge(
            f"headers, tags and metadata of {message.job_type} have {size} bytes, the limit is "
            f"{PROPERTIES_LIMIT}: put what is large into the payload"
        )
    return ServiceBusMessage(
        message.payload,
        application_properties=properties,
        message_id=message.id,
        subject=message.job_type,
        content_type="application/json",
        correlation_id=message.job_id,
        session_id=session_id,
        scheduled_enqueue_time_utc=due,
    )


def _properties(carried: Carried) -> list[tuple[str, Any]]:
    message = carried.message
    return [
        ("jobbus", _VERSION),
        ("prior-attempts", message.prior_attempts or None),
        ("failures", carried.failures or None),
        ("crashes", carried.crashes or None),
        ("max-attempts", message.max_attempts),
        ("max-crashes", message.max_crashes),
        ("timeout", message.timeout.total_seconds() if message.timeout is not None else None),
        ("parent-id", message.parent_id),
        ("headers", _as_json(message.headers)),
        ("metadata", _as_json(message.metadata)),
        ("tags", _as_json(message.tags)),
    ]


def _as_json(value: Any) -> str | None:
    # A property has no type for nested values, and ASCII survives every client's encoding.
    return json.dumps(dict(value) if isinstance(value, Mapping) else list(value)) if value else None


def read(received: ServiceBusReceivedMessage, queue: str) -> Carried:
    """What was written. Raises Unreadable."""
    found = {_text(name): _text(value) for name, value in _given(received).items()}
    if found.get("jobbus") != _VERSION:
        raise Unreadable(f"no message of jobbus's, or of a newer one's: {found.get('jobbus')!r}")
    if received.body_type is not AmqpMessageBodyType.DATA:
        raise Unreadable("its body is no data")
    job_id = parse_id(str(received.correlation_id))
    if job_id is None or not received.subject:
        raise Unreadable("it has no job id, or no job type")
    try:
        timeout = found.get("timeout")
        message = Message(
            job_id=job_id,
            job_type=received.subject,
            payload=b"".join(received.body),
            queue=queue,
            group=group_of(received.session_id, found.get("group")),
            headers=json.loads(found.get("headers", "{}")),
            metadata=json.loads(found.get("metadata", "{}")),
            tags=tuple(json.loads(found.get("tags", "[]"))),
            max_attempts=int(found["max-attempts"]),
            max_crashes=int(found["max-crashes"]),
            timeout=None if timeout is None else timedelta(seconds=float(timeout)),
            parent_id=found.get("parent-id"),
            prior_attempts=int(found.get("prior-attempts", 0)),
        )
        return Carried(
            message=message,
            failures=int(found.get("failures", 0)),
            crashes=int(found.get("crashes", 0)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unreadable(f"its properties do not fit: {error!r}") from error


def _given(received: ServiceBusReceivedMessage) -> Mapping[Any, Any]:
    return received.application_properties or {}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
