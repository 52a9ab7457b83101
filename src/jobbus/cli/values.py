"""What people type, turned into values: spans of time, moments, states, names, weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from jobbus.cli.failures import BadUsage
from jobbus.cli.text import did_you_mean, shortened
from jobbus.errors import InvalidJob
from jobbus.ids import parse_id
from jobbus.job import ALIASES, JobState
from jobbus.options import NAME

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.IGNORECASE | re.ASCII)
_SECONDS: Final[Mapping[str, float]] = {
    "ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800,
}  # fmt: skip
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:-]{0,64}\*?")
DURATION_HELP: Final = "write 90s, 10m, 2h, 1d or 1h30m"


def parse_duration(option: str, text: str) -> timedelta:
    """A span of time such as ``10m`` or ``1h30m``; a plain number is seconds.

    Raises InvalidJob for a negative one, and BadUsage for what is none.
    """
    word = text.strip()
    if word.startswith("-") and _is_duration(word[1:]):
        raise InvalidJob(f"{option} cannot be negative: {shortened(word, 40)}; {DURATION_HELP}")
    if not _is_duration(word):
        raise BadUsage(
            f"{option} takes a span of time, not {shortened(text, 40)!r}", fix=DURATION_HELP
        )
    try:
        if _is_number(word):
            return timedelta(seconds=float(word))
        return timedelta(
            seconds=sum(float(n) * _SECONDS[unit.lower()] for n, unit in _PART.findall(word))
        )
    except (OverflowError, ValueError) as error:
        raise BadUsage(
            f"{option} is longer than any calendar: {shortened(word, 40)}", fix=DURATION_HELP
        ) from error


def maybe_duration(option: str, text: str | None) -> timedelta | None:
    """:func:`parse_duration` of an option that may be missing."""
    return None if text is None else parse_duration(option, text)


def parse_moment(option: str, text: str) -> datetime:
    """An ISO 8601 moment with its time zone, in UTC."""
    fix = "write it as 2030-01-31T09:30:00Z, or with an offset such as +02:00"
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise BadUsage(
            f"{option} takes a moment, not {shortened(text, 40)!r}", why=str(error), fix=fix
        ) from error
    if value.utcoffset() is None:
        raise BadUsage(
            f"{option} {shortened(text, 40)} does not say its time zone",
            why="the same clock time is another moment elsewhere",
            fix=fix,
        )
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise BadUsage(f"{option} {text} is no moment in UTC", fix=fix) from error


def parse_since(option: str, text: str, now: datetime | None = None) -> datetime:
    """A moment, or how long ago it was: ``2h``, ``2030-01-31T09:30:00Z``."""
    word = text.strip()
    if not _is_duration(word.removeprefix("-")):
        return parse_moment(option, word)
    try:
        return (now or datetime.now(UTC)) - parse_duration(option, word.removeprefix("-"))
    except OverflowError as error:
        raise BadUsage(f"{option} {word} is before all calendars", fix=DURATION_HELP) from error


def parse_states(words: Iterable[str]) -> frozenset[JobState]:
    """States named in any vocabulary that is understood, several joined by commas."""
    found: set[JobState] = set()
    for word in (part for given in words for part in given.split(",") if part.strip()):
        try:
            found.update(JobState.parse(word))
        except ValueError as error:
            known = [*JobState, *ALIASES]
            raise BadUsage(
                f"there is no job state {shortened(word.strip(), 40)!r}",
                why=f"understood are {', '.join(sorted(set(known)))}",
                fix=did_you_mean(word.strip().replace("-", "_"), known),
            ) from error
    return frozenset(found)


def parse_queues(text: str) -> dict[str, float]:
    """``high:3,default`` as weights by queue; a queue without one weighs 1."""
    weights: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        name, mark, weight = part.rpartition(":")
        if not mark or not _is_number(weight):
            # Names may have colons in them, too.
            name, weight = part, "1"
        if float(weight) <= 0:
            raise BadUsage(f"the weight of queue {name} must be above 0, not {weight}")
        weights[queue_name(name)] = float(weight)
    return weights


def queue_name(text: str) -> str:
    return _named("queue", text)


def tag_name(text: str) -> str:
    return _named("tag", text)


def group_name(text: str) -> str:
    return _named("group", text)


def job_type_name(text: str) -> str:
    return _named("job type", text)


def job_type_pattern(text: str) -> str:
    """A job type, or a prefix that ends in ``*``."""
    if not text or _PATTERN.fullmatch(text) is None:
        raise BadUsage(
            f"{shortened(text, 40)!r} is no job type and no prefix of one",
            fix="write a name such as email.send, or a prefix such as 'email.*'",
        )
    return text


def job_id(option: str, text: str) -> str:
    """A job's id in its usual form."""
    known = parse_id(text)
    if known is None:
        raise BadUsage(
            f"{option} {shortened(text, 40)!r} is no job id",
            why="job ids are UUIDs",
            fix="`jobbus jobs ls -o id` prints them",
        )
    return known


def _named(what: str, text: str) -> str:
    if NAME.fullmatch(text) is None:
        raise BadUsage(
            f"{shortened(text, 40)!r} cannot be the name of a {what}",
            fix="names are 1 to 64 letters, digits and . _ : -",
        )
    return text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) is not None


def _is_duration(text: str) -> bool:
    return _is_number(text) or (bool(text) and not _PART.sub("", text).strip())
