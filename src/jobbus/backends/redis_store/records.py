"""Values to documents and records, and back.

What a message says for good is one string: a JSON object, a line end, the payload. What changes is
a hash of short fields; a field that is not there has its usual value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from jobbus.backends.sql.program import Dialect
from jobbus.backends.sql.rows import problem_from, unique_lock
from jobbus.job import Job, JobState, Problem, Progress
from jobbus.message import (
    NO_DELAY,
    DeadLetter,
    Delivery,
    Message,
    new_delivery,
    new_message,
)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
_DEFAULT_ATTEMPTS: Final = 3
DEFAULT_CRASHES: Final = 3


class Receipt(NamedTuple):
    """What a queue in Redis remembers of a delivery besides its attempt."""

    claim: int
    document_bytes: int
    """Told again with the completion, so that the server need not look for what jobs take."""


def moment(microseconds: str | bytes | int | None) -> datetime | None:
    """A time as scripts write it."""
    if microseconds is None:
        return None
    return EPOCH + timedelta(microseconds=int(microseconds))


def known_moment(microseconds: str | bytes | int) -> datetime:
    return EPOCH + timedelta(microseconds=int(microseconds))


def microseconds(when: datetime) -> int:
    return (when - EPOCH) // MICROSECOND


def lasting(duration: timedelta) -> int:
    """A duration in microseconds."""
    return duration // MICROSECOND


def _moment_parameter(when: datetime | None) -> int | None:
    return None if when is None else microseconds(when)


DIALECT: Final = Dialect(
    name="redis", read_moment=moment, write_moment=_moment_parameter, one_statement_each=True
)
"""How histories that the stores share read times."""


def enqueue_argument(message: Message) -> bytes:
    """What the script ``enqueue`` takes of one message. No word has a NUL in it."""
    due = 0 if message.run_at is None else microseconds(message.run_at)
    asked = options_of(message)
    words = (
        f"{message.job_id}\0{message.queue}\0{message.job_type}\0{int(message.priority)}\0"
        f"{message.prior_attempts}\0{lasting(message.delay)}\0{due}\0"
        f"{json.dumps(asked) if asked else ''}\0"
    )
    return words.encode() + document(message)


def completion_argument(delivery: Delivery, result: bytes | None) -> bytes:
    """What the script ``complete`` takes of one completion."""
    receipt: Receipt = delivery.receipt
    words = f"{delivery.job_id} {delivery.attempt} {receipt.claim} {receipt.document_bytes} "
    return words.encode() + (b"-" if result is None else b"+" + result)


def document(message: Message) -> bytes:
    """The part of a job that never changes."""
    told: dict[str, Any] = {"type": message.job_type}
    if message.headers:
        told["headers"] = dict(message.headers)
    if message.max_attempts != _DEFAULT_ATTEMPTS:
        told["max_attempts"] = message.max_attempts
    if message.max_crashes != DEFAULT_CRASHES:
        told["max_crashes"] = message.max_crashes
    if message.timeout is not None:
        told["timeout_ms"] = math.ceil(message.timeout / timedelta(milliseconds=1))
    if message.expires_at is not None:
        told["expires_at"] = microseconds(message.expires_at)
    for name in ("group", "parent_id", "unique_key"):
        if (value := getattr(message, name)) is not None:
            told[name] = value
    if message.tags:
        told["tags"] = list(message.tags)
    if message.metadata:
        told["metadata"] = dict(message.metadata)
    return json.dumps(told, separators=(",", ":")).encode() + b"\n" + message.payload


def options_of(message: Message) -> dict[str, Any]:
    """What few jobs ask for."""
    asked: dict[str, Any] = {}
    if message.max_crashes != DEFAULT_CRASHES:
        asked["max_crashes"] = message.max_crashes
    if message.unique_key is not None:
        asked["lock"] = unique_lock(message)
    if message.expires_at is not None:
        asked["expires"] = str(microseconds(message.expires_at))
    if message.group is not None:
        asked["group"] = message.group
    if message.tags:
        asked["tags"] = json.dumps(message.tags)
    if message.parent_id is not None:
        asked["parent"] = message.parent_id
    if message.depends_on:
        asked["after"] = [[edge.job_id, str(edge.on_failure)] for edge in message.depends_on]
    return asked


def deliveries_from(
    answer: Sequence[Any], queue: str, claim: int, received_at: float
) -> tuple[list[Delivery], list[DeadLetter]]:
    """The answer of ``claim``; what cannot be read is to be set aside as it is."""
    started = known_moment(answer[0])
    deliveries, unreadable = [], []
    for line, text in zip(answer[1].decode().split("\n"), answer[2:], strict=True):
        numbers, receipt = line.split(" "), Receipt(claim, len(text or b""))
        try:
            told, payload = _read(text)
            deliveries.append(
                _delivery(numbers, told, payload, queue, receipt, started, received_at)
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problem = Problem(kind="unreadable", message=f"its record cannot be read: {error}")
            bare = _delivery(
                numbers, {"type": "unreadable"}, text or b"", queue, receipt, started, received_at
            )
            unreadable.append(DeadLetter(delivery=bare, problem=problem))
    return deliveries, unreadable


def _read(text: bytes | None) -> tuple[dict[str, Any], bytes]:
    if text is None:
        raise ValueError("it has no document")
    head, mark, payload = text.partition(b"\n")
    told = json.loads(head)
    if not mark or not isinstance(told, dict):
        raise ValueError("its document does not begin with a JSON object")
    return told, payload


def _delivery(
    numbers: Sequence[str],
    told: Mapping[str, Any],
    payload: bytes,
    queue: str,
    receipt: Receipt,
    started: datetime,
    received_at: float,
) -> Delivery:
    job_id, attempt, failures, crashes, priority, run_at, created_at = numbers
    message = new_message(
        job_id,
        told["type"],
        payload,
        queue,
        int(priority),
        told.get("max_attempts", _DEFAULT_ATTEMPTS),
        told.get("max_crashes", DEFAULT_CRASHES),
        int(attempt) - 1,
        headers=told.get("headers"),
        group=told.get("group"),
        expires_at=moment(told.get("expires_at")),
        timeout=_timeout(told),
        unique_key=told.get("unique_key"),
        parent_id=told.get("parent_id"),
        tags=tuple(told.get("tags", ())),
        metadata=told.get("metadata"),
    )
    due = known_moment(run_at)
    return new_delivery(
        message,
        receipt,
        int(attempt),
        int(failures),
        int(crashes),
        moment(created_at),
        started - due if started > due else NO_DELAY,
        received_at,
    )


def _timeout(told: Mapping[str, Any]) -> timedelta | None:
    milliseconds = told.get("timeout_ms")
    return None if milliseconds is None else timedelta(milliseconds=milliseconds)


def fields_of(flat: Sequence[bytes]) -> dict[str, bytes]:
    """A hash as scripts answer it: names and values in turn."""
    pairs = iter(flat)
    return {name.decode(): value for name, value in zip(pairs, pairs, strict=True)}


def job_from(job_id: str, text: bytes | None, fields: Mapping[str, bytes]) -> Job:
    """The job of a document and a record."""
    try:
        told, payload = _read(text)
    except (ValueError, RecursionError):
        # People to whom a spoiled job is shown still want to see it.
        told, payload = {}, text or b""

    def number(name: str, default: int = 0) -> int:
        return int(fields.get(name, default))

    return Job(
        id=job_id,
        job_type=fields["T"].decode(),
        queue=fields["q"].decode(),
        state=JobState(fields["s"].decode()),
        priority=number("p"),
        payload=payload,
        attempt=number("a"),
        failures=number("f"),
        crashes=number("k"),
        snoozes=number("z"),
        max_attempts=told.get("max_attempts", _DEFAULT_ATTEMPTS),
        generation=number("g", 1),
        created_at=known_moment(fields["t"]),
        run_at=known_moment(fields["r"]),
        started_at=moment(fields.get("b")),
        finished_at=moment(fields.get("e")),
        expires_at=moment(told.get("expires_at")),
        timeout=_timeout(told),
        worker=fields["w"].decode() if "w" in fields else None,
        progress=progress_from(fields["P"]) if "P" in fields else None,
        result=fields.get("R"),
        problem=problem_from(fields["E"].decode()) if "E" in fields else None,
        cancel_requested="o" in fields,
        parent_id=told.get("parent_id"),
        unique_key=told.get("unique_key"),
        group=told.get("group"),
        tags=tuple(told.get("tags", ())),
        headers=told.get("headers", {}),
        metadata=told.get("metadata", {}),
    )


def initial_state(fields: Mapping[str, bytes]) -> JobState:
    """The state in which the job was created."""
    return JobState(fields.get("i", b"queued").decode())


def progress_from(word: bytes) -> Progress:
    """A word of a running job: when it was heard, a space, a JSON object."""
    at, _, text = word.partition(b" ")
    told = json.loads(text)
    return Progress(
        percent=told["percent"], stage=told["stage"], message=told["message"], at=moment(at)
    )
