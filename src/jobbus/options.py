"""What a caller can ask for one job, checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeAlias, TypedDict

from jobbus import codec
from jobbus.errors import InvalidJob
from jobbus.ids import parse_id
from jobbus.message import IDEMPOTENCY_KEY, NO_DELAY, Dependency, Message, Priority

Duration: TypeAlias = timedelta | float
"""A span of time; plain numbers are seconds."""

NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
MAX_UNIQUE_KEY: Final = 200
MAX_METADATA: Final = 8 * 1024
"""Bytes of JSON; the same holds for headers."""
LOWEST: Final = 1
HIGHEST: Final = 10


class PriorityOrder(StrEnum):
    """Which end of 1 to 10 a caller means to be served first."""

    HIGHER_FIRST = "higher_first"
    LOWER_FIRST = "lower_first"


class OptionKeywords(TypedDict, total=False):
    """The fields of :class:`EnqueueOptions`, as keywords."""

    priority: int | str
    delay: Duration
    run_at: datetime
    max_attempts: int
    timeout: Duration
    unique_key: str
    idempotency_key: str
    expires_at: datetime
    expires_in: Duration
    group: str
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    queue: str
    depends_on: Sequence[str | Dependency]
    parent_id: str
    headers: Mapping[str, str]
    job_id: str
    connection: Any
    delay_seconds: Duration
    message_group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueOptions:
    """What is asked for one job over what its type says. None leaves the type's own.

    Raises :class:`~jobbus.errors.InvalidJob` for what could never be right: there are no options
    that are not valid. Numbers for spans of time are seconds.
    """

    priority: int | str | None = None
    """1 to 10, higher runs sooner; or ``low``, ``normal``, ``high``."""
    delay: Duration | None = None
    run_at: datetime | None = None
    """A moment instead of a delay; given both, the later one holds."""
    max_attempts: int | None = None
    timeout: Duration | None = None
    unique_key: str | None = None
    """At most one unfinished job of a job type holds a key."""
    idempotency_key: str | None = None
    """Jobs of one job type with the same key and payload do their work once.

    The later ones complete with the result of the first. Travels as a header.
    """
    expires_at: datetime | None = None
    expires_in: Duration | None = None
    """How long after it falls due the job may still start."""
    group: str | None = None
    """Jobs of one group run in order, one at a time."""
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None
    queue: str | None = None
    depends_on: Sequence[str | Dependency] = ()
    parent_id: str | None = None
    headers: Mapping[str, str] | None = None
    job_id: str | None = None
    """Makes enqueueing twice enqueueing once. A UUID."""
    connection: Any = field(default=None, repr=False, compare=False)
    """The job exists if and only if this connection's transaction commits."""
    delay_seconds: Duration | None = None
    """Another name of ``delay``."""
    message_group_id: str | None = None
    """Another name of ``group``."""

    def __post_init__(self) -> None:
        for name, value in _checked(self).items():
            object.__setattr__(self, name, value)

    def merged(self, over: EnqueueOptions) -> EnqueueOptions:
        """These options, with all that ``over`` says in place of what they say."""
        said = {
            each.name: getattr(over, each.name)
            for each in fields(over)
            if getattr(over, each.name) not in (None, ())
        }
        return replace(self, **said) if said else self


def apply_options(message: Message, options: EnqueueOptions, now: datetime) -> Message:
    """``message`` with what the options ask for; the message itself when they ask for nothing.

    Raises :class:`~jobbus.errors.InvalidJob` for a job that would expire before it falls due.
    """
    changes: dict[str, Any] = {
        name: value
        for name in _COPIED
        if (value := getattr(options, name)) is not None and value != ()
    }
    if options.headers or options.idempotency_key:
        key = {IDEMPOTENCY_KEY: options.idempotency_key} if options.idempotency_key else {}
        changes["headers"] = {**message.headers, **(options.headers or {}), **key}
    if options.metadata:
        changes["metadata"] = {**message.metadata, **options.metadata}
    changed = replace(message, **changes) if changes else message
    return _with_deadline(changed, options, now)


def due_at(message: Message, now: datetime) -> datetime:
    """When the message may first be handed out, enqueued ``now``."""
    due = now + message.delay
    return due if message.run_at is None else max(due, message.run_at)


def normalise_priority(
    value: int | str, order: PriorityOrder | str = PriorityOrder.HIGHER_FIRST
) -> int:
    """The priority as jobbus counts it: 1 to 10, higher runs sooner.

    Names mean the same in either order. Raises :class:`~jobbus.errors.InvalidJob`.
    """
    if isinstance(value, str):
        try:
            return int(Priority[value.strip().upper()])
        except KeyError as error:
            raise InvalidJob(
                f"priority is {LOWEST} to {HIGHEST}, or low, normal, high; not {value!r}"
            ) from error
    number = _whole("priority", value)
    if not LOWEST <= number <= HIGHEST:
        raise InvalidJob(f"priority is {LOWEST} to {HIGHEST}, higher runs sooner; not {number}")
    return number if PriorityOrder(order) is PriorityOrder.HIGHER_FIRST else HIGHEST + 1 - number


def as_duration(what: str, value: Duration, *, least: timedelta | None = None) -> timedelta:
    """A span of time, from seconds where it is a number; InvalidJob when it is not above ``least``.

    Without ``least``, zero is allowed and less is not.
    """
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise InvalidJob(f"{what} is a timedelta or a number of seconds, not {_shown(value)}")
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError) as error:
        raise InvalidJob(f"{what} of {value} seconds is no span of time: {error}") from error
    if least is not None and span <= least:
        raise InvalidJob(
            f"{what} must be more than {least.total_seconds():g} s, not {_shown(value)}"
        )
    if span < timedelta(0):
        raise InvalidJob(f"{what} cannot be negative: {_shown(value)}")
    return span


def check_name(what: str, value: str) -> str:
    """The name; InvalidJob when it is not 1 to 64 of the characters that every backend takes."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidJob(f"{what} {_shown(value)} is no name: take 1 to 64 of A-Z a-z 0-9 _ . : -")
    return value


def _with_deadline(message: Message, options: EnqueueOptions, now: datetime) -> Message:
    try:
        due = due_at(message, now)
        deadlines = [] if options.expires_at is None else [options.expires_at]
        if options.expires_in is not None:
            deadlines.append(due + as_duration("expires_in", options.expires_in))
    except OverflowError as error:
        raise InvalidJob(
            f"the job would fall due after the end of all calendars: {error}"
        ) from error
    if not deadlines:
        return message
    if min(deadlines) <= due:
        raise InvalidJob(
            f"the job would expire at {min(deadlines):%Y-%m-%d %H:%M:%S%z}, before it may start "
            f"at {due:%Y-%m-%d %H:%M:%S%z}"
        )
    return replace(message, expires_at=min(deadlines))


def _checked(options: EnqueueOptions) -> dict[str, Any]:
    """What has to be set anew for the options to be whole and of one form."""
    checked: dict[str, Any] = {}
    for name, other in _OTHER_NAMES.items():
        value = getattr(options, other)
        if value is not None:
            if getattr(options, name) is not None:
                raise InvalidJob(f"{other} is another name of {name}: give one of them")
            checked |= {name: value, other: None}
    for name, check in _CHECKS.items():
        value = checked.get(name, getattr(options, name))
        if value is not None:
            checked[name] = check(value)
    waits_for = {each.job_id for each in checked["depends_on"]}
    if checked.get("job_id") in waits_for:
        raise InvalidJob("a job cannot depend on itself")
    return checked


def _whole(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidJob(f"{what} is a whole number, not {_shown(value)}")
    return int(value)


def _attempts(value: int) -> int:
    if _whole("max_attempts", value) < 1:
        raise InvalidJob(f"max_attempts counts the first try: at least 1, not {value}")
    return int(value)


def _moment(what: str, value: datetime) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidJob(f"{what} is a datetime, not {_shown(value)}")
    if value.utcoffset() is None:
        raise InvalidJob(
            f"{what} {value.isoformat()} has no time zone; say which, "
            "as in datetime.now(UTC) or value.replace(tzinfo=UTC)"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidJob(f"{what} {value.isoformat()} is no moment in UTC: {error}") from error


def check_key(what: str, value: str) -> str:
    """The key; InvalidJob when it is not printable text of 1 to 200 characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_UNIQUE_KEY:
        raise InvalidJob(f"{what} is text of 1 to {MAX_UNIQUE_KEY} characters, not {_shown(value)}")
    if not value.isprintable():
        raise InvalidJob(f"{what} {_shown(value)} has characters that cannot be printed")
    return value


def _tags(value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InvalidJob(f"tags is a sequence of names; did you mean [{value!r}]?")
    return tuple(dict.fromkeys(check_name("tag", tag) for tag in value))


def _id(what: str, value: str) -> str:
    parsed = parse_id(value)
    if parsed is None:
        raise InvalidJob(f"{what} {_shown(value)} is no UUID")
    return parsed


def _dependencies(value: Sequence[str | Dependency]) -> tuple[Dependency, ...]:
    if isinstance(value, str | Dependency):
        raise InvalidJob("depends_on is a sequence; put the one job into a list")
    edges = (each if isinstance(each, Dependency) else Dependency(each) for each in value)
    checked = (replace(edge, job_id=_id("depends_on", edge.job_id)) for edge in edges)
    return tuple({edge.job_id: edge for edge in checked}.values())


def _metadata(value: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidJob(f"metadata is a mapping, not {_shown(value)}")
    data = codec.encode(value, limit=MAX_METADATA, what="metadata")
    if b"\\u0000" in data.replace(b"\\\\", b""):
        # Postgres keeps metadata as jsonb, which has no room for it.
        raise InvalidJob("metadata has the character NUL in it, which not every store can keep")
    tree: dict[str, Any] = codec.decode(data, what="metadata")
    return tree


def _headers(value: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidJob(f"headers is a mapping of names to text, not {_shown(value)}")
    for name, text in value.items():
        check_name("header", name)
        if not isinstance(text, str) or not text.isprintable():
            raise InvalidJob(f"header {name} is printable text, not {_shown(text)}")
    codec.encode(dict(value), limit=MAX_METADATA, what="headers")
    return dict(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:60]}…"


_OTHER_NAMES: Final = {"delay": "delay_seconds", "group": "message_group_id"}
_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "priority": normalise_priority,
    "delay": partial(as_duration, "delay"),
    "run_at": partial(_moment, "run_at"),
    "max_attempts": _attempts,
    "timeout": partial(as_duration, "timeout", least=NO_DELAY),
    "unique_key": partial(check_key, "unique_key"),
    "idempotency_key": partial(check_key, "idempotency_key"),
    "expires_at": partial(_moment, "expires_at"),
    "expires_in": partial(as_duration, "expires_in", least=NO_DELAY),
    "group": partial(check_name, "group"),
    "tags": _tags,
    "metadata": _metadata,
    "queue": partial(check_name, "queue"),
    "depends_on": _dependencies,
    "parent_id": partial(_id, "parent_id"),
    "headers": _headers,
    "job_id": partial(_id, "job_id"),
}
_COPIED: Final = frozenset(_CHECKS) - {
    "expires_at", "expires_in", "headers", "idempotency_key", "metadata"
}  # fmt: skip
NOTHING: Final = EnqueueOptions()
"""Options that ask for nothing."""
