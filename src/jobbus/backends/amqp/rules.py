"""What RabbitMQ by itself can do for a message, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from jobbus.errors import PayloadTooLarge, Unsupported
from jobbus.message import BARE_BROKER, NO_DELAY, Message
from jobbus.queue import LEDGER_REMEDY, refuse_beyond

from .topology import CONSUMER_TIMEOUT, DELIVERY_LIMIT, MAX_DELAY

CAPABILITIES: Final = replace(
    BARE_BROKER,
    max_delay=MAX_DELAY,
)
_SLACK: Final = timedelta(minutes=5)
"""Between the longest job and the broker's patience: a message waits for its slot, too."""
_OWN_TIMEOUT_SINCE: Final = (3, 12)


def longest_job(version: tuple[int, ...], server_timeout: timedelta) -> timedelta:
    """The longest time limit of a job that the broker lets a worker hold (RM-2)."""
    own = version >= _OWN_TIMEOUT_SINCE
    return (CONSUMER_TIMEOUT if own else server_timeout) - _SLACK


def delay_of(message: Message) -> timedelta:
    """The delay that was asked for, or the time until its moment, whichever is longer."""
    if message.run_at is None:
        return max(message.delay, NO_DELAY)
    return max(message.delay, message.run_at - datetime.now(UTC), NO_DELAY)


def check_delay(delay: timedelta) -> None:
    """Raise Unsupported for a delay beyond :data:`MAX_DELAY`."""
    if delay > MAX_DELAY:
        raise Unsupported(f"RabbitMQ delays for at most {MAX_DELAY}, not {delay}: {LEDGER_REMEDY}")


def check_message(message: Message, longest: timedelta) -> None:
    """Raise Unsupported or PayloadTooLarge for what cannot be kept as it was asked for."""
    refuse_beyond(message, CAPABILITIES, "RabbitMQ by itself")
    check_delay(delay_of(message))
    if message.max_crashes > DELIVERY_LIMIT:
        raise Unsupported(
            f"on RabbitMQ max_crashes is at most {DELIVERY_LIMIT}, not {message.max_crashes}"
        )
    if message.timeout is not None and message.timeout > longest:
        raise Unsupported(
            f"this RabbitMQ takes a job away that runs for longer than {longest}, and "
            f"{message.timeout} was asked for: lower it, or raise consumer_timeout on the server "
            "and rabbitmq.consumer_timeout_minutes with it"
        )
    if len(message.payload) > CAPABILITIES.max_payload:
        raise PayloadTooLarge(
            f"the payload of job {message.job_id} has {len(message.payload)} bytes; RabbitMQ takes "
            f"{CAPABILITIES.max_payload} here"
        )
