"""How SQLite tells the time: milliseconds since 1970, by a clock that can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from .program import Dialect

Clock = Callable[[], datetime]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def utc_now() -> datetime:
    return datetime.now(UTC)


def to_milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


@lru_cache(maxsize=256)  # all rows of a claim began at one moment, and many were made at one
def from_milliseconds(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + value * _MILLISECOND


SQLITE: Final = Dialect("sqlite", from_milliseconds, to_milliseconds, one_statement_each=False)
