"""What SQS allows, as its API reference states it, and the checks that hold jobbus to it.

All of it is checked here before anything is sent: half of it is refused by SQS in words that name
no remedy, and the look-alikes that people test with refuse only some of it.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from jobbus.errors import InvalidJob, PayloadTooLarge, Unsupported
from jobbus.message import BARE_BROKER, NO_DELAY, Message
from jobbus.queue import LEDGER_REMEDY, refuse_beyond

MAX_ENTRIES: Final = 10
"""Messages in one batch request, and in one receive."""
MAX_BYTES: Final = 1024 * 1024
"""Of a message with its attributes, and of all messages of a batch together."""
MAX_DELAY: Final = timedelta(seconds=900)
MAX_VISIBILITY: Final = timedelta(hours=12)
"""Of one lease; and in all, from the receive on."""
MAX_RETENTION: Final = timedelta(days=14)
"""Of a queue; what its dead-letter queue is made with."""
MAX_WAIT: Final = timedelta(seconds=20)
LONGEST_HOLD: Final = timedelta(hours=11)
"""How long leases are extended, so that a back-off of an hour still fits into the twelve."""
MAX_FIFO_BACK_OFF: Final = timedelta(hours=1)
RESERVE: Final = 16 * 1024
"""Bytes that no new message may use: a copy carries counters, a dead letter its reasons."""
MAX_PAYLOAD: Final = 720 * 1024
"""As base64 960 KiB; with the reserve that leaves 48 KiB for headers, tags and metadata."""
_GROUP: Final = re.compile(r"[!-~]{1,128}")
_QUEUE: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")

STANDARD: Final = replace(
    BARE_BROKER,
    max_delay=MAX_DELAY,
    max_lease=MAX_VISIBILITY,
    max_payload=MAX_PAYLOAD,
    # The longest there is: no queue has been asked yet, and jobs come again from dead letters too.
    retention=MAX_RETENTION,
)
FIFO: Final = replace(
    STANDARD,
    # It drops known ids for five minutes; a promise that ends is none, so that is not declared.
    ordered_groups=True,
    delays=False,
    max_delay=MAX_FIFO_BACK_OFF,
)


def refuse_transaction(connection: Any | None) -> None:
    """Unsupported where a caller's transaction is to be joined."""
    if connection is not None:
        raise Unsupported(f"SQS takes part in no database transaction: {LEDGER_REMEDY}")


def check_message(message: Message, *, fifo: bool) -> int:
    """The seconds that the message is to be delayed. Raises Unsupported or InvalidJob."""
    if message.group is not None and not fifo:
        raise Unsupported(
            "a standard SQS queue keeps no order within a group: use a FIFO queue "
            f"(aws_sqs.use_fifo_queue), or {LEDGER_REMEDY}"
        )
    refuse_beyond(message, FIFO if fifo else STANDARD, "SQS by itself")
    if message.group is not None and not _GROUP.fullmatch(message.group):
        raise InvalidJob(
            f"group {message.group[:40]!r} is no SQS group: take 1 to 128 printable ASCII "
            "characters without spaces"
        )
    if len(message.payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(
            f"the payload of {message.job_type} has {len(message.payload):,} bytes, and SQS "
            f"carries at most {MAX_PAYLOAD:,}: store the data elsewhere and send where it is"
        )
    if message.max_attempts < 1 or message.max_crashes < 1:
        raise InvalidJob("max_attempts and max_crashes must be at least 1")
    return check_delay(_delay(message), fifo=fifo)


def _delay(message: Message) -> timedelta:
    if message.run_at is None:
        return message.delay
    try:
        return max(message.delay, message.run_at - datetime.now(UTC))
    except TypeError as error:
        raise InvalidJob("run_at needs a time zone, as in datetime.now(UTC)") from error


def check_delay(delay: timedelta, *, fifo: bool) -> int:
    """Whole seconds that are no less than ``delay``. Unsupported for more than SQS delays."""
    if delay <= NO_DELAY:
        return 0
    if fifo:
        raise Unsupported(f"a FIFO queue of SQS delays no single message: {LEDGER_REMEDY}")
    if delay > MAX_DELAY:
        raise Unsupported(
            f"SQS delays a message by at most {MAX_DELAY.total_seconds():g} s, not by "
            f"{delay.total_seconds():g}: {LEDGER_REMEDY}"
        )
    return math.ceil(delay.total_seconds())


def check_back_off(delay: timedelta, *, fifo: bool) -> int:
    """Whole seconds for an abandoned message. Unsupported for more than can be."""
    if not fifo:
        return check_delay(delay, fifo=False)
    if delay > MAX_FIFO_BACK_OFF:
        raise Unsupported(
            f"a message of a FIFO queue is put back for at most "
            f"{MAX_FIFO_BACK_OFF.total_seconds():g} s, not for {delay.total_seconds():g}: "
            f"{LEDGER_REMEDY}"
        )
    return max(0, math.ceil(delay.total_seconds()))


def check_lease(lease: timedelta) -> int:
    """Whole seconds of visibility timeout that are no less than ``lease``."""
    if lease > MAX_VISIBILITY:
        raise Unsupported(
            f"SQS hides a message for at most {MAX_VISIBILITY.total_seconds():g} s, not for "
            f"{lease.total_seconds():g}: lower VISIBILITY_TIMEOUT_SECONDS; leases are extended"
        )
    return max(1, math.ceil(lease.total_seconds()))


def check_size(body: str, job_type: str, largest: int) -> None:
    """PayloadTooLarge unless the body, and a copy's additions, fit into this queue."""
    room = largest - min(RESERVE, largest // 4)
    if len(body) > room:
        raise PayloadTooLarge(
            f"{job_type} takes {len(body):,} bytes as an SQS message, and this queue leaves "
            f"{room:,} of its MaximumMessageSize of {largest:,}: raise that attribute (to "
            f"{MAX_BYTES:,} at most), or store the data elsewhere and send where it is"
        )


def check_queue_name(name: str) -> str:
    """The name of a queue in SQS. Unsupported for one that SQS could not have."""
    if not _QUEUE.fullmatch(name.removesuffix(".fifo")) or len(name) > 80:
        raise Unsupported(
            f"SQS has no queue named {name[:90]!r}: its names are 1 to 80 letters, digits, - and _ "
            "(the setting aws_sqs.queue_prefix and the name of the queue together)"
        )
    return name
