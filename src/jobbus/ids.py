"""Job ids: UUIDs that sort by the time they were made."""

from __future__ import annotations

import os
import re
import threading
import time
from uuid import UUID

_HEX = "%08x-%04x-%04x-%04x-%012x"
_CANONICAL = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class _Clock:
    """Keeps ids of one process strictly increasing (RFC 9562 section 6.2, method 1)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._counter = 0

    def tick(self) -> tuple[int, int]:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millisecond:
                self._millisecond = now
                self._counter = int.from_bytes(os.urandom(3)) & 0x1FFFFF
            else:
                self._counter += 1
                if self._counter >> 26:
                    self._millisecond += 1
                    self._counter = 0
            return self._millisecond, self._counter


_clock = _Clock()


def new_id() -> str:
    """A UUID version 7 (RFC 9562): 48 bits of milliseconds, a 26-bit counter, 48 random bits."""
    millisecond, counter = _clock.tick()
    random = int.from_bytes(os.urandom(6))
    return _HEX % (
        millisecond >> 16,
        millisecond & 0xFFFF,
        0x7000 | (counter >> 14),
        0x8000 | (counter & 0x3FFF),
        random,
    )


def parse_id(text: str) -> str | None:
    """The canonical form of a UUID, or None for anything else."""
    try:
        if _CANONICAL.fullmatch(text):
            return text
        return str(UUID(text))
    except (ValueError, AttributeError, TypeError):
        return None
