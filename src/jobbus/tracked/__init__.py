"""Any broker and a ledger, as one queue that remembers."""

from __future__ import annotations

from .queue import TrackedQueue
from .store import TrackingStore

__all__ = ["TrackedQueue", "TrackingStore"]
