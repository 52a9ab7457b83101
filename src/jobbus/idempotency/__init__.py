"""Idempotency keys: work that is asked for several times and done once.

``store`` is the seam; ``memory`` and ``redis`` implement it here, and SQL backends on their own
database (``jobbus.backends.sql.idempotency``).
"""

from __future__ import annotations

from jobbus.idempotency.store import (
    Answer,
    IdempotencyStore,
    KeepsKeys,
    KeyClaim,
    KeyEnd,
    KeyHold,
    KeyRecord,
    KeyState,
    Reply,
)

__all__ = [
    "Answer",
    "IdempotencyStore",
    "KeepsKeys",
    "KeyClaim",
    "KeyEnd",
    "KeyHold",
    "KeyRecord",
    "KeyState",
    "Reply",
]
