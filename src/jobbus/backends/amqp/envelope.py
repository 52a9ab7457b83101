"""Messages as AMQP carries them: the payload as the body, verbatim; the rest in one header.

The header is JSON text, because a table of AMQP's own cannot hold every name and value, and because
headers such as ``CC`` mean something to the broker.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from aiormq import spec
from aiormq.abc import DeliveredMessage

from jobbus.errors import InvalidJob
from jobbus.ids import parse_id
from jobbus.job import Problem
from jobbus.message import (
    NO_DELAY,
    DeadLetter,
    Delivery,
    Message,
    new_delivery,
    new_message,
)

from .topology import DELIVERY_LIMIT

T = TypeVar("T")
HEADER: Final = "jobbus"
PROBLEM: Final = "jobbus-problem"
VERSION: Final = 1
_LARGEST_HEADER: Final = 32 * 1024
"""Bytes. Written anew with other escapes, and with a problem, it must fit into a frame: 128 KiB."""
_LONGEST_MESSAGE: Final = 2_000
_LONGEST_REASON: Final = 64
_LONGEST_TRACEBACK: Final = 3_000
_COUNT: Final = 2**31
_LAST_MOMENT: Final = 2.0**36
"""Seconds since 1970, a little before the end of the year 4147."""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse)


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
        told = _JSON.decode(str(headers.get(PROBLEM)))
        if type(told) is not dict:
            raise ValueError("it is no object")
        trace = told.get("traceback")
        problem = Problem(
            kind=_given(told, "kind", str),
            message=_given(told, "message", str),
            traceback=None if trace is None else str(trace),
        )
        return problem, told.get("timed_out") is True, 0
    except (ValueError, RecursionError):
        reason = _last_death(headers)
    # The broker's own doing, of which it says no more.
    problem = Problem(kind=reason, message=f"RabbitMQ set it aside by itself: {reason}")
    return problem, False, DELIVERY_LIMIT if reason == "delivery_limit" else 0


def _last_death(headers: dict[str, Any]) -> str:
    """The broker's reason; not its first one, which is that a delay was over."""
    match headers.get("x-death"):
        case [{"reason": str() as reason}, *_]:
            return reason[:_LONGEST_REASON]
        case _:
            return "unknown"


def _read(headers: dict[str, Any], body: bytes, queue: str, unsettled: int) -> Envelope:
    text = headers.get(HEADER)
    if not isinstance(text, str):
        raise Undecodable(f"it has no header {HEADER!r}")
    try:
        if len(text.encode()) > _LARGEST_HEADER:
            raise ValueError(f"it is larger than {_LARGEST_HEADER} bytes")
        return _envelope(_JSON.decode(text), body, queue, unsettled)
    except (ValueError, RecursionError, OverflowError) as error:
        raise Undecodable(f"its header {HEADER!r} cannot be read: {error}") from error


def _unsettled(headers: dict[str, Any]) -> int:
    # RabbitMQ 4.3 counts returns apart, as x-acquired-count.
    told = (headers.get("x-delivery-count"), headers.get("x-acquired-count"))
    return max([count for count in told if isinstance(count, int)], default=0)


def _envelope(found: Any, payload: bytes, queue: str, unsettled: int) -> Envelope:
    if type(found) is not dict:
        raise ValueError("it is no object")
    version = _count(found, "version")
    if version != VERSION:
        raise ValueError(f"version {version} is none that this jobbus reads")
    job_id = parse_id(found.get("job_id", ""))
    if job_id is None:
        raise ValueError("job_id is no UUID")
    attempts = _count(found, "attempts") + unsettled
    timeout = found.get("timeout")
    message = new_message(
        job_id,
        _given(found, "job_type", str),
        payload,
        queue,
        max_attempts=_count(found, "max_attempts"),
        max_crashes=_count(found, "max_crashes"),
        prior_attempts=attempts,
        headers=_texts(_given(found, "headers", dict)) if "headers" in found else None,
        timeout=None if timeout is None else timedelta(seconds=_number(found, "timeout")),
        parent_id=_given(found, "parent_id", str) if "parent_id" in found else None,
        tags=tuple(map(str, _given(found, "tags", list))) if "tags" in found else (),
        metadata=_given(found, "metadata", dict) if "metadata" in found else None,
    )
    return Envelope(
        message=message,
        attempts=attempts,
        failures=_count(found, "failures"),
        crashes=_count(found, "crashes") + unsettled,
        enqueued_at=_moment(found, "enqueued_at"),
        available_at=_moment(found, "available_at"),
    )


def _given(found: dict[str, Any], name: str, kind: type[T]) -> T:
    value = found.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name} is missing, or of the wrong kind")
    return value


def _count(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    if type(value) is not int or not 0 <= value < _COUNT:
        raise ValueError(f"{name} is no number from 0 to {_COUNT}")
    return value


def _number(found: dict[str, Any], name: str) -> float:
    value = found.get(name)
    if type(value) is not float and type(value) is not int:
        raise ValueError(f"{name} is no number")
    return float(value)


def _moment(found: dict[str, Any], name: str) -> float:
    value = _number(found, name)
    if not 0 <= value < _LAST_MOMENT:
        raise ValueError(f"{name} is no time")
    return value


def _texts(found: dict[str, Any]) -> dict[str, str]:
    if not all(type(value) is str for value in found.values()):
        raise ValueError("its headers are not all text")
    return found


def delivery_of(envelope: Envelope, receipt: Any, now: float) -> Delivery:
    """The message in a worker's hands."""
    waited = now - envelope.available_at
    return new_delivery(
        envelope.message,
        receipt,
        envelope.attempts + 1,
        envelope.failures,
        envelope.crashes,
        datetime.fromtimestamp(envelope.enqueued_at, UTC),
        timedelta(seconds=waited) if waited > 0 else NO_DELAY,
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
