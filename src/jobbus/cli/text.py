"""Text from anywhere, made safe to print: no escape codes of others, and no passwords."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters, and those that turn the direction of text or hide in it."""
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MASKED: Final = ("://", "=")
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def plain(text: object) -> str:
    """``text`` on one line, with whatever a terminal might obey written out as an escape."""
    return _UNPRINTABLE.sub(_escaped, str(text))


def plain_lines(text: object) -> list[str]:
    """The lines of ``text``, each made plain."""
    return [plain(line) for line in str(text).split("\n")]


def shortened(text: object, width: int) -> str:
    """The beginning of the plain text, with an ellipsis where it is longer than ``width``."""
    line = plain(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that is readable, and harmless on a terminal."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    # Within JSON these characters can only be inside of strings. Line breaks are the layout's own.
    return _UNPRINTABLE.sub(lambda m: m[0] if m[0] == "\n" else _json_escape(m[0]), text)


def masked(text: str) -> str:
    """``text`` without the passwords of addresses in it."""
    if not any(mark in text for mark in _MASKED):
        return text
    from jobbus.settings.addresses import mask

    return mask(text)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` is most probably a typo of."""
    by_fold = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(word.casefold(), list(by_fold), n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to end an error with; empty when nothing is near."""
    meant = nearest(word, known)
    return f"did you mean {meant}?" if meant else ""


def moment(value: datetime | None) -> str | None:
    """RFC 3339 in UTC, with milliseconds, as in every JSON that is printed."""
    if value is None:
        return None
    text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def local_moment(value: datetime | None) -> str:
    """Local time for people; empty for None."""
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(value: timedelta | None) -> str:
    """Two units at the most: ``3.2s``, ``1m 04s``, ``2d 03h``; empty for None."""
    if value is None:
        return ""
    seconds = value.total_seconds()
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 10:
        return f"{sign}{seconds:.1f}s"
    if seconds < 60:
        return f"{sign}{seconds:.0f}s"
    whole = int(seconds)
    for index, (size, unit) in enumerate(_UNITS):
        if whole >= size:
            below, below_unit = _UNITS[index + 1] if index + 1 < len(_UNITS) else (1, "s")
            return f"{sign}{whole // size}{unit} {whole % size // below:02d}{below_unit}"
    raise AssertionError("a minute or more has one of the units")


def ago(value: datetime | None, now: datetime | None = None) -> str:
    """How long ago, or ``in`` how long; empty for None."""
    if value is None:
        return ""
    passed = (now or datetime.now(UTC)) - value
    return f"{span(passed)} ago" if passed >= timedelta(0) else f"in {span(-passed)}"


def counted(number: int, noun: str, *, cap: int | None = None) -> str:
    """``1 job``, ``7 jobs``, ``10,000+ jobs`` where counting stopped at ``cap``."""
    more = "+" if cap is not None and number >= cap else ""
    return f"{number:,}{more} {noun}{'' if number == 1 and not more else 's'}"


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return _SHORT_ESCAPES.get(character) or _json_escape(character)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
