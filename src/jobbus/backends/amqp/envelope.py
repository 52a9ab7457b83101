"""Messages as AMQP carries them: the payload as the body, verbatim; the rest in one header.

The header is JSON text, because a table of AMQP's own cannot hold every name and value, and because
headers such as ``CC`` mean something to the broker.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiormq import spec
from aiormq.abc import DeliveredMessage

from jobbus.errors import InvalidJob
from jobbus.ids import parse_id
from jobbus.job import Problem
from jobbus.message import DeadLetter, Delivery, Message

from .topology import DELIVERY_LIMIT

HEADER: Final = "jobbus"
PROBLEM: Final = "jobbus-problem"
VERSION: Final = 1
_LARGEST_HEADER: Final = 32 * 1024
"""Bytes. Written anew with other escapes, and with a problem, it must fit into a frame: 128 KiB."""
_LONGEST_MESSAGE: Final = 2_000
_LONGEST_TRACEBACK: Final = 3_000
_COUNT: Final = 2**31
_LAST_MOMENT: Final = 2.0**36
"""Seconds since 1970, a little before the end of the year 4147."""


class Undecodable(Exception):
    """A message that is not one of jobbus's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message with what happened to its job so far."""

    message: Message
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    enqueued_at: float
    """Seconds since 1970, like ``available_at``, by the clock of whoever sent it."""
    available_at: float


def check_size(envelope: Envelope) -> None:
    """Raise InvalidJob where there is more beside the payload than a header takes."""
    size = len(_text(_document(envelope)).encode())
    if size > _LARGEST_HEADER:
        raise InvalidJob(
            f"the headers, tags and metadata of job {envelope.message.job_id} take {size} bytes on "
            f"RabbitMQ, more than {_LARGEST_HEADER}: put them into the payload"
        )


def properties_of(
    envelope: Envelope, problem: Problem | None = None, *, timed_out: bool = False
) -> spec.Basic.Properties:
    """What travels beside the payload; with the reason, beside that of a dead letter."""
    message = envelope.message
    headers: dict[str, Any] = {HEADER: _text(_document(envelope))}
    if problem is not None:
        headers[PROBLEM] = _told(problem, timed_out=timed_out)
    return spec.Basic.Properties(
        headers=headers,
        delivery_mode=2,
        content_type="application/octet-stream",
        correlation_id=message.job_id,
        message_type=message.job_type[:64],
        timestamp=datetime.fromtimestamp(envelope.enqueued_at, UTC),
    )


def foreign_properties(arrived: DeliveredMessage, problem: Problem) -> spec.Basic.Properties:
    """The properties of somebody else's message, with the reason why it is set aside.

    Its own headers stay, but for those that the broker would act on.
    """
    given = arrived.header.properties
    headers = {
        name: value
        for name, value in (given.headers or {}).items()
        if name not in ("CC", "BCC") and not name.startswith("x-")
    }
    return spec.Basic.Properties(
        headers={**headers, PROBLEM: _told(problem)},
        delivery_mode=2,
        content_type=given.content_type,
        content_encoding=given.content_encoding,
        correlation_id=given.correlation_id,
        message_type=given.message_type,
        app_id=given.app_id,
        timestamp=given.timestamp,
    )


def _document(envelope: Envelope) -> dict[str, Any]:
    message = envelope.message
    document: dict[str, Any] = {
        "version": VERSION,
        "job_id": message.job_id,
        "job_type": message.job_type,
        "max_attempts": message.max_attempts,
        "max_crashes": message.max_crashes,
        "attempts": envelope.attempts,
        "failures": envelope.failures,
        "crashes": envelope.crashes,
        "enqueued_at": envelope.enqueued_at,
        "available_at": envelope.available_at,
    }
    if message.headers:
        document["headers"] = dict(message.headers)
    if message.timeout is not None:
        document["timeout"] = message.timeout.total_seconds()
    if message.parent_id is not None:
        document["parent_id"] = message.parent_id
    if message.tags:
        document["tags"] = message.tags
    if message.metadata:
        document["metadata"] = dict(message.metadata)
    return document


def _told(problem: Problem, *, timed_out: bool = False) -> str:
    trace = problem.traceback[-_LONGEST_TRACEBACK:] if problem.traceback else None
    short = replace(problem, message=problem.message[:_LONGEST_MESSAGE], traceback=trace)
    return _text(asdict(short) | ({"timed_out": True} if timed_out else {}))


def _text(document: dict[str, Any]) -> str:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can write and UTF-8 cannot
        return json.dumps(document, separators=(",", ":"))
    return text


def envelope_of(arrived: DeliveredMessage, queue: str) -> Envelope:
    """Read a message off the wire. Raises Undecodable for anything that jobbus did not write.

    Deliveries that nobody settled are counted in: the broker counts them, and each was the end of
    a connection.
    """
    headers = arrived.header.properties.headers or {}
    return _read(headers, arrived.body, queue, _unsettled(headers))


def dead_letter_of(arrived: DeliveredMessage, queue: str, receipt: Any) -> DeadLetter:
    """Read a message among the dead letters; one that is none of jobbus's gets no job id.

    How often it was delivered there is of no account: that was no attempt.
    """
    headers = arrived.header.properties.headers or {}
    problem, timed_out, deliveries = _end_of(headers)
    try:
        envelope = _read(headers, arrived.body, queue, deliveries)
    except Undecodable as error:
        foreign = Message(job_id="", job_type="", payload=arrived.body, queue=queue)
        delivery = Delivery(message=foreign, receipt=receipt, attempt=0)
        return DeadLetter(
            delivery=delivery, problem=Problem(kind="undecodable", message=str(error))
        )
    before = delivery_of(envelope, receipt, envelope.available_at)
    return DeadLetter(
        delivery=replace(before, attempt=envelope.attempts), problem=problem, timed_out=timed_out
    )


def _end_of(headers: dict[str, Any]) -> tuple[Problem, bool, int]:
    """Why this is a dead letter, whether for its time, and deliveries that nobody settled."""
    try:
        told = _Reader(json.loads(str(headers.get(PROBLEM)), parse_constant=_refuse))
        problem = Problem(
            kind=told.text("kind"),
            message=told.text("message"),
            traceback=told.get("traceback", (str, type(None)), None),
        )
        return problem, told.flag("timed_out"), 0
    except (ValueError, RecursionError):
        reason = str(headers.get("x-first-death-reason", "unknown"))
    # The broker's own doing, of which it says no more.
    problem = Problem(kind=reason, message=f"RabbitMQ set it aside by itself: {reason}")
    return problem, False, DELIVERY_LIMIT if reason == "delivery_limit" else 0


def _read(headers: dict[str, Any], body: bytes, queue: str, unsettled: int) -> Envelope:
    text = headers.get(HEADER)
    if not isinstance(text, str):
        raise Undecodable(f"it has no header {HEADER!r}")
    try:
        if len(text.encode()) > _LARGEST_HEADER:
            raise ValueError(f"it is larger than {_LARGEST_HEADER} bytes")
        found = _Reader(json.loads(text, parse_constant=_refuse))
        return _envelope(found, body, queue, unsettled)
    except (ValueError, RecursionError, OverflowError) as error:
        raise Undecodable(f"its header {HEADER!r} cannot be read: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _unsettled(headers: dict[str, Any]) -> int:
    # RabbitMQ 4.3 counts returns apart, as x-acquired-count.
    told = (headers.get("x-delivery-count"), headers.get("x-acquired-count"))
    return max([count for count in told if isinstance(count, int)], default=0)


def _envelope(found: _Reader, payload: bytes, queue: str, unsettled: int) -> Envelope:
    version = found.count("version")
    if version != VERSION:
        raise ValueError(f"version {version} is none that this jobbus reads")
    job_id = parse_id(found.text("job_id"))
    if job_id is None:
        raise ValueError("job_id is no UUID")
    timeout = found.get("timeout", (int, float), None)
    attempts = found.count("attempts") + unsettled
    message = Message(
        job_id=job_id,
        job_type=found.text("job_type"),
        payload=payload,
        queue=queue,
        headers=found.texts("headers"),
        max_attempts=found.count("max_attempts"),
        max_crashes=found.count("max_crashes"),
        timeout=None if timeout is None else timedelta(seconds=timeout),
        parent_id=found.get("parent_id", str, None),
        tags=tuple(str(tag) for tag in found.get("tags", list, ())),
        metadata=found.get("metadata", dict, {}),
        prior_attempts=attempts,
    )
    return Envelope(
        message=message,
        attempts=attempts,
        failures=found.count("failures"),
        crashes=found.count("crashes") + unsettled,
        enqueued_at=found.moment("enqueued_at"),
        available_at=found.moment("available_at"),
    )


_REQUIRED: Final = object()


class _Reader:
    """Takes values of the right kind out of a document that anybody may have written."""

    def __init__(self, document: Any) -> None:
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        self._document = document

    def get(self, name: str, kind: Any, default: Any = _REQUIRED) -> Any:
        value = self._document.get(name, default)
        if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{name} is of the wrong kind")
        if value is _REQUIRED:
            raise ValueError(f"{name} is missing")
        return value

    def text(self, name: str) -> str:
        return str(self.get(name, str))

    def count(self, name: str) -> int:
        value = int(self.get(name, int))
        if not 0 <= value < _COUNT:
            raise ValueError(f"{name} is out of range")
        return value

    def flag(self, name: str) -> bool:
        return self._document.get(name) is True

    def moment(self, name: str) -> float:
        value = float(self.get(name, (int, float)))
        if not 0 <= value < _LAST_MOMENT:
            raise ValueError(f"{name} is no time")
        return value

    def texts(self, name: str) -> dict[str, str]:
        pairs = self.get(name, dict, {})
        if not all(isinstance(value, str) for value in pairs.values()):
            raise ValueError(f"{name} is of the wrong kind")
        return dict(pairs)


def delivery_of(envelope: Envelope, receipt: Any, now: float) -> Delivery:
    """The message in a worker's hands."""
    return Delivery(
        message=envelope.message,
        receipt=receipt,
        attempt=envelope.attempts + 1,
        failures=envelope.failures,
        crashes=envelope.crashes,
        enqueued_at=datetime.fromtimestamp(envelope.enqueued_at, UTC),
        wait=timedelta(seconds=max(now - envelope.available_at, 0.0)),
    )


def envelope_behind(delivery: Delivery, available_at: float) -> Envelope:
    """What a delivery travels on in, its attempt counted."""
    enqueued_at = delivery.enqueued_at
    return Envelope(
        message=delivery.message,
        attempts=delivery.attempt,
        failures=delivery.failures,
        crashes=delivery.crashes,
        enqueued_at=available_at if enqueued_at is None else enqueued_at.timestamp(),
        available_at=available_at,
    )


def poison(envelope: Envelope) -> Problem:
    """Why a job that used up its crashes is set aside."""
    return Problem(
        kind="poison_crash",
        message=f"the process that ran it died, or its connection broke, {envelope.crashes} times",
    )
