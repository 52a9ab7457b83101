"""Values to rows and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from jobbus.job import Job, JobState, Problem, Progress
from jobbus.message import NO_DELAY, DeadLetter, Delivery, Message, new_delivery, new_message

from .document import as_text
from .program import Dialect, Many, Row, Rows, Statement

T = TypeVar("T")
Tickets = Mapping[tuple[str, int], Any]
"""By job and the attempts that it has had."""
NO_TICKETS: Final[Tickets] = {}
_ABSENT: Final = dict.fromkeys(
    ("timeout_ms", "parent_id", "unique_key", "unique_lock", "tags", "headers", "metadata")
)
"""Parameters of the ``enqueue_one`` statement that most jobs do not have."""
_HEADERS: Final = 8
_TAGS: Final = 19
"""Columns of the ``claim`` statement that hold JSON; metadata comes after the tags."""


class Receipt(NamedTuple):
    """What a SQL queue remembers of a delivery besides its attempt."""

    claim: int
    has_dependents: bool
    ticket: Any = None
    """What it was started with; None for what came from the store itself."""


def message_row(message: Message, dialect: Dialect) -> dict[str, Any]:
    """The parameters of the ``enqueue`` statement; what is not there is NULL, as most is."""
    row: dict[str, Any] = {
        "id": message.job_id,
        "queue": message.queue,
        "job_type": message.job_type,
        "priority": int(message.priority),
        "attempt": message.prior_attempts,
        "max_attempts": message.max_attempts,
        "max_crashes": message.max_crashes,
        "delay_ms": _milliseconds(message.delay) if message.delay else 0,
        "blocked": False,
        # A document is written faster from text than from bytes.
        "payload": as_text(message.payload) if dialect.one_statement_each else message.payload,
    }
    if message.depends_on or message.group is not None:
        row["blocked"] = True
        row["group_name"] = message.group
    if message.unique_key is not None:
        row["unique_key"] = message.unique_key
        row["unique_lock"] = unique_lock(message)
    if message.timeout is not None:
        row["timeout_ms"] = _milliseconds(message.timeout)
    if message.run_at is not None:
        row["run_at"] = dialect.write_moment(message.run_at)
    if message.expires_at is not None:
        row["expires_at"] = dialect.write_moment(message.expires_at)
    if message.parent_id is not None:
        row["parent_id"] = message.parent_id
    for column, value in (("headers", message.headers), ("metadata", message.metadata)):
        if value:
            row[column] = json.dumps(dict(value))
    if message.tags:
        row["tags"] = json.dumps(message.tags)
    return row


def single_row(statement: Statement) -> dict[str, Any] | None:
    """Parameters of ``enqueue_one``, where ``enqueue`` has a single row that is ready at once."""
    if not isinstance(statement, Many) or statement.name != "enqueue" or len(statement.batch) != 1:
        return None
    row = statement.batch[0]
    if row["blocked"] or row["delay_ms"] or "run_at" in row or "expires_at" in row:
        return None
    payload = row["payload"]
    as_bytes = payload.encode() if isinstance(payload, str) else payload
    return {**_ABSENT, **row, **statement.parameters, "payload": as_bytes}


def unique_lock(message: Message) -> str | None:
    """What at most one unfinished job can hold: a key is unique within its job type."""
    return None if message.unique_key is None else f"{message.job_type}/{message.unique_key}"


def deliveries_from(
    rows: Rows, queue: str, received_at: float, dialect: Dialect, tickets: Tickets = NO_TICKETS
) -> tuple[list[Delivery], list[DeadLetter]]:
    """Rows of the ``claim`` statement; what cannot be read is to be set aside as it is."""
    deliveries, unreadable = [], []
    for row in rows:
        try:
            deliveries.append(delivery_from(row, queue, received_at, dialect, tickets))
        except (ValueError, RecursionError) as error:
            readable = (*row[:_HEADERS], None, *row[_HEADERS + 1 : _TAGS], None, None, row[-1])
            problem = Problem(kind="unreadable", message=f"its row cannot be read: {error}")
            delivery = delivery_from(readable, queue, received_at, dialect)
            unreadable.append(DeadLetter(delivery=delivery, problem=problem))
    return deliveries, unreadable


def delivery_from(
    row: Row, queue: str, received_at: float, dialect: Dialect, tickets: Tickets = NO_TICKETS
) -> Delivery:
    """A row of the ``claim`` statement."""
    (
        job_id, attempt, claim, failures, crashes, priority, job_type, payload, headers, timeout_ms,
        max_attempts, max_crashes, expires_at, run_at, created_at, started_at, group, parent_id,
        unique_key, tags, metadata, has_dependents,
    ) = row  # fmt: skip
    read = dialect.read_moment
    due, started = read(run_at), read(started_at)
    message = new_message(
        job_id,
        job_type,
        payload if type(payload) is bytes else _bytes(payload),
        queue,
        priority,
        max_attempts,
        max_crashes,
        attempt - 1,
        headers=_mapping(headers, str) if headers else None,
        group=group,
        expires_at=None if expires_at is None else read(expires_at),
        timeout=None if timeout_ms is None else _duration(timeout_ms),
        unique_key=unique_key,
        parent_id=parent_id,
        tags=_texts(tags) if tags else (),
        metadata=_mapping(metadata) if metadata else None,
    )
    wait = started - due if started and due and started > due else NO_DELAY
    ticket = tickets.get((job_id, attempt - 1)) if tickets else None
    receipt = Receipt(claim, has_dependents, ticket)
    return new_delivery(
        message, receipt, attempt, failures, crashes, read(created_at), wait, received_at
    )


def job_from(row: Row, dialect: Dialect) -> Job:
    """A row of ``job_columns``."""
    (
        job_id, job_type, queue, state, priority, payload, attempt, failures, crashes, snoozes,
        max_attempts, generation, created_at, run_at, started_at, finished_at, expires_at,
        timeout_ms, worker, progress, result, problem, cancel_requested, parent_id, unique_key,
        group, tags, headers, metadata, _initial_state,
    ) = row  # fmt: skip
    moment = dialect.read_moment
    created, due = moment(created_at), moment(run_at)
    if created is None or due is None:
        raise ValueError(f"job {job_id} has no times: the row was not written by jobbus")
    return Job(
        id=job_id,
        job_type=job_type,
        queue=queue,
        state=JobState(state),
        priority=priority,
        payload=_bytes(payload),
        attempt=attempt,
        failures=failures,
        crashes=crashes,
        snoozes=snoozes,
        max_attempts=max_attempts,
        generation=generation,
        created_at=created,
        run_at=due,
        started_at=moment(started_at),
        finished_at=moment(finished_at),
        expires_at=moment(expires_at),
        timeout=_duration(timeout_ms),
        worker=worker,
        progress=progress_from(progress),
        result=None if result is None else _bytes(result),
        problem=problem_from(problem),
        cancel_requested=bool(cancel_requested),
        parent_id=parent_id,
        unique_key=unique_key,
        group=group,
        tags=_or_empty(_texts, tags, ()),
        headers=_or_empty(_mapping, headers, {}),
        metadata=_or_empty(_mapping, metadata, {}),
    )


def problem_text(problem: Problem | None) -> str | None:
    if problem is None:
        return None
    told: dict[str, str] = {"kind": problem.kind, "message": problem.message}
    if problem.traceback:
        told["traceback"] = problem.traceback
    return json.dumps(told)


def problem_from(text: str | None) -> Problem | None:
    return None if text is None else Problem(**json.loads(text))


def progress_text(progress: Progress, at: datetime | None = None) -> str:
    """The latest word of a job; the database adds when it heard it, unless ``at`` says."""
    told: dict[str, Any] = {
        "percent": progress.percent,
        "stage": mended(progress.stage),
        "message": mended(progress.message),
    }
    return json.dumps(told if at is None else told | {"at": at.isoformat()})


def progress_word(row: Sequence[Any], dialect: Dialect) -> Progress:
    """A row of the history of progress."""
    percent, stage, message, at = row
    return Progress(percent=percent, stage=stage, message=message, at=dialect.read_moment(at))


def progress_from(text: str | None) -> Progress | None:
    if text is None:
        return None
    note: Mapping[str, Any] = json.loads(text)
    at = note.get("at")
    return Progress(
        percent=note["percent"],
        stage=note["stage"],
        message=note["message"],
        at=datetime.fromisoformat(at) if at else None,
    )


def mended(text: str) -> str:
    """The text without what no database keeps: NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()


def _bytes(value: Any) -> bytes:
    """A column of bytes, in which people may have written text."""
    return value.encode() if isinstance(value, str) else bytes(value)


def _mapping(text: str, kind: type = object) -> dict[str, Any]:
    """A JSON object with values of this kind; ValueError where it is none."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(v, kind) for v in found.values()):
        raise ValueError(f"{text[:60]!r} is not the JSON object that should be there")
    return found


def _texts(text: str) -> tuple[str, ...]:
    """A JSON array of texts; ValueError where it is none."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{text[:60]!r} is not the JSON array that should be there")
    return tuple(found)


def _or_empty(read: Callable[[str], T], text: str | None, empty: T) -> T:
    """For people to look at: a row that somebody spoiled is still one that they want to see."""
    try:
        return read(text) if text else empty
    except (ValueError, RecursionError):
        return empty


def _milliseconds(duration: timedelta | None) -> int | None:
    return None if duration is None else math.ceil(duration / timedelta(milliseconds=1))


def _duration(milliseconds: int | None) -> timedelta | None:
    return None if milliseconds is None else timedelta(milliseconds=milliseconds)
