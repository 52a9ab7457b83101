"""What a store says no to before it writes anything."""

from __future__ import annotations

from typing import Final

from jobbus.errors import InvalidJob, PayloadTooLarge
from jobbus.ids import parse_id
from jobbus.message import NO_DELAY, Capabilities, Message

from .rows import mended

_INTEGER_LIMIT: Final = 2**31 - 1


def check_message(message: Message, capabilities: Capabilities) -> None:
    """What would otherwise fail in the store with a worse word."""
    _check_id(message.job_id)
    if message.parent_id is not None:
        _check_id(message.parent_id)
    for dependency in message.depends_on:
        _check_id(dependency.job_id)
    if len(message.payload) > capabilities.max_payload:
        raise PayloadTooLarge(
            f"the payload of {message.job_type} has {len(message.payload)} bytes, the limit is "
            f"{capabilities.max_payload}: store it elsewhere and pass a reference"
        )
    if message.delay < NO_DELAY:
        raise InvalidJob(f"a delay cannot be negative: {message.delay}")
    if not 1 <= message.priority <= 10:
        raise InvalidJob(f"priority goes from 1 to 10, higher runs sooner; not {message.priority}")
    if (
        not 1 <= message.max_attempts <= _INTEGER_LIMIT
        or not 1 <= message.max_crashes <= _INTEGER_LIMIT
    ):
        raise InvalidJob("max_attempts and max_crashes must be at least 1")
    for text in (message.queue, message.job_type, message.group, message.unique_key):
        if text is not None and (not text or mended(text) != text):
            raise InvalidJob(f"{text!r} cannot be a name: empty, or with NUL or half characters")


def _check_id(name: str) -> None:
    if parse_id(name) != name:
        raise InvalidJob(f"{name!r} is not a UUID in its usual form; job ids are")
