"""Which key a job's work is done under, and what the key stands for."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Sequence

from jobbus import codec
from jobbus.errors import BackendError, IdempotencyMismatch, PayloadError
from jobbus.idempotency.store import IdempotencyStore, KeyClaim
from jobbus.message import Message
from jobbus.options import check_key

log = logging.getLogger("jobbus.idempotency")


def stored_key(job_type: str, key: str) -> str:
    """A caller's key as stores know it: each job type has keys of its own."""
    return f"{job_type}/{key}"


def claim_for(message: Message) -> KeyClaim:
    """A claim of the key under which this message's work is done once.

    Raises InvalidJob for a key that could not be one: headers come from strangers too.
    """
    key = message.idempotency_key
    return KeyClaim(
        key=stored_key(
            message.job_type,
            message.job_id if key is None else check_key("idempotency key", key),
        ),
        owner=secrets.token_hex(16),
        fingerprint=fingerprint(message),
        job_id=message.job_id,
        max_crashes=message.max_crashes,
    )


def fingerprint(message: Message) -> str:
    """Names a payload; with a caller's key, however its JSON happens to be written."""
    if message.idempotency_key is None:
        return _digest(message.payload)
    try:
        tree = codec.decode(message.payload)
        return _digest(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
    except (PayloadError, ValueError):
        return _digest(message.payload)  # not JSON; then the bytes are what it is


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:32]


async def refuse_mismatches(store: IdempotencyStore, messages: Sequence[Message]) -> None:
    """Raise IdempotencyMismatch for a key that is known to stand for another payload.

    What cannot be known yet is found at execution; a store that is away keeps nobody from
    enqueueing (D-10).
    """
    wanted: dict[str, str] = {}
    for message in messages:
        if message.idempotency_key is None:
            continue
        key, print_ = stored_key(message.job_type, message.idempotency_key), fingerprint(message)
        if wanted.setdefault(key, print_) != print_:
            raise _mismatch(key)
    if not wanted:
        return
    try:
        found = await store.look(list(wanted))
    except BackendError as error:
        log.info("idempotency keys are not looked up before enqueueing: %s", error)
        return
    for key, record in zip(wanted, found, strict=True):
        if record is not None and record.fingerprint != wanted[key]:
            raise _mismatch(key)


def _mismatch(key: str) -> IdempotencyMismatch:
    job_type, _, own = key.partition("/")
    return IdempotencyMismatch(
        f"the idempotency key {own!r} was used for a job of type {job_type} with another payload: "
        "take a new key for new work, or repeat the payload"
    )
