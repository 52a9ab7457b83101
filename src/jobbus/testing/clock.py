"""Time that stands still until a test moves it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
"""Where virtual time starts, unless told otherwise: the same in every run."""


class VirtualClock:
    """Call it for the time: an aware datetime in UTC. Any thread may read or move it."""

    def __init__(self, start: datetime = EPOCH) -> None:
        if start.tzinfo is None:
            raise ValueError(f"a clock starts at an aware time, not at the naive {start!r}")
        self._lock = threading.Lock()
        self._now = start.astimezone(UTC)

    def __call__(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, by: timedelta) -> datetime:
        """Let ``by`` pass and return the new time. Raises ValueError for a negative ``by``."""
        if by < timedelta(0):
            raise ValueError(f"time only moves forward, not by {by!r}")
        with self._lock:
            self._now += by
            return self._now
