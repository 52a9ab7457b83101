"""A message as the body that SQS carries, and back: JSON in plain ASCII.

SQS takes only the characters of XML 1.0, so everything else is escaped. A payload travels as text
where it is text and the escapes cost less than base64 would; so never by more than a third.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from pydantic_core import from_json

from jobbus.errors import InvalidJob
from jobbus.ids import parse_id
from jobbus.message import DEFAULT_QUEUE, Message, new_message

VERSION: Final = 1
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LARGEST_NUMBER: Final = 2**31 - 1
_T = TypeVar("_T")
_DEFAULTS: Final = Message(job_id="", job_type="", payload=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message with what must outlive a copy of it: SQS cannot change a message that it has."""

    message: Message
    failures: int = 0
    crashes: int = 0
    delay: int = 0
    """Seconds that this copy was sent with."""
    first_sent: datetime | None = None
    """When the job's first message was sent; None in that message itself."""


def encode(envelope: Envelope) -> str:
    """The body. Raises InvalidJob when headers or metadata cannot be JSON."""
    message = envelope.message
    said = {
        "v": VERSION,
        "id": message.job_id,
        "type": message.job_type,
        "queue": _unless(message.queue, DEFAULT_QUEUE),
        "headers": dict(message.headers) or None,
        "group": message.group,
        "max_attempts": _unless(message.max_attempts, _DEFAULTS.max_attempts),
        "max_crashes": _unless(message.max_crashes, _DEFAULTS.max_crashes),
        "timeout": None if message.timeout is None else message.timeout.total_seconds(),
        "parent": message.parent_id,
        "tags": list(message.tags) or None,
        "metadata": dict(message.metadata) or None,
        "prior": message.prior_attempts or None,
        "failures": envelope.failures or None,
        "crashes": envelope.crashes or None,
        "delay": envelope.delay or None,
        "first_sent": None if envelope.first_sent is None else _millis(envelope.first_sent),
        **_packed(message.payload),
    }
    try:
        return json.dumps(
            {name: value for name, value in said.items() if value is not None},
            allow_nan=False,
            separators=(",", ":"),
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJob(
            f"headers, tags and metadata of {message.job_type} must be plain JSON: {error}"
        ) from error


def decode(body: str) -> Envelope:
    """The envelope in ``body``, which anybody may have written. Raises ValueError."""
    found = from_json(body, allow_inf_nan=False, cache_strings="keys")
    if not isinstance(found, dict) or found.get("v") != VERSION:
        raise ValueError(f"it is no message of jobbus, version {VERSION}")
    timeout = _optional(found, "timeout", (int, float))
    first_sent = _optional(found, "first_sent", (int,))
    message = new_message(
        _job_id(found.get("id")),
        _named(found, "type", None),
        _unpacked(found),
        _named(found, "queue", DEFAULT_QUEUE),
        max_attempts=_count(found, "max_attempts", _DEFAULTS.max_attempts, least=1),
        max_crashes=_count(found, "max_crashes", _DEFAULTS.max_crashes, least=1),
        prior_attempts=_count(found, "prior", 0),
        headers=_texts(_given(found, "headers", dict, {})),
        group=_optional(found, "group", (str,)),
        timeout=None if timeout is None else _seconds(timeout),
        parent_id=_optional(found, "parent", (str,)),
        tags=tuple(str(tag) for tag in _given(found, "tags", list, [])),
        metadata=_given(found, "metadata", dict, {}),
    )
    return Envelope(
        message=message,
        failures=_count(found, "failures", 0),
        crashes=_count(found, "crashes", 0),
        delay=_count(found, "delay", 0),
        first_sent=None if first_sent is None else moment(first_sent),
    )


def moment(milliseconds: int) -> datetime:
    """Milliseconds since 1970, as SQS counts. Raises ValueError for what no calendar has."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{milliseconds} ms is no moment") from error


def _millis(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def _unless(value: _T, default: _T) -> _T | None:
    return None if value == default else value


def _packed(payload: bytes) -> dict[str, str]:
    packed = base64.b64encode(payload).decode("ascii")
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return {"payload64": packed}
    return {"payload": text} if len(json.dumps(text)) <= len(packed) + 2 else {"payload64": packed}


def _unpacked(found: dict[str, Any]) -> bytes:
    if "payload64" in found:
        return base64.b64decode(_given(found, "payload64", str, ""), validate=True)
    if "payload" not in found:
        raise ValueError("it has no payload")
    return _given(found, "payload", str, "").encode("utf-8")


def _given(found: dict[str, Any], name: str, kind: type[_T], default: _T) -> _T:
    value = found.get(name, default)
    if not isinstance(value, kind):
        raise ValueError(f"its {name} is a {type(value).__name__}")
    return value


def _optional(found: dict[str, Any], name: str, kinds: tuple[type[Any], ...]) -> Any:
    value = found.get(name)
    if value is not None and type(value) not in kinds:
        raise ValueError(f"its {name} is a {type(value).__name__}")
    return value


def _count(found: dict[str, Any], name: str, default: int, *, least: int = 0) -> int:
    value = found.get(name, default)
    if type(value) is not int or not least <= value <= _LARGEST_NUMBER:
        raise ValueError(f"its {name} is no number from {least}")
    return value


def _named(found: dict[str, Any], name: str, default: str | None) -> str:
    value = found.get(name, default)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"its {name} is no name")
    return value


def _job_id(value: Any) -> str:
    if not isinstance(value, str) or parse_id(value) is None:
        raise ValueError("its id is no UUID")
    return value


def _texts(found: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its headers are not all text")
    return found


def _seconds(value: float) -> timedelta:
    if not 0 < value < timedelta(days=365).total_seconds():
        raise ValueError("its timeout is no span of time")
    return timedelta(seconds=value)
