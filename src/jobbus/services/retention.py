"""Deletes ended jobs that are too old, too many or too large, a little at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from jobbus.job import JobState
from jobbus.store import JobStore

PAGE: Final = 1000
"""Jobs in one transaction."""
PAGES: Final = 100
"""Pages in one step, with rests in between: maintenance never crowds out the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What is kept of the jobs that ended in these states."""

    states: frozenset[JobState]
    age: timedelta
    """Since their ends."""
    count: int | None = None
    """In each queue; None is no limit."""
    size: int | None = None
    """Bytes in each queue; None is no limit."""


async def prune_once(store: JobStore, keep: Sequence[Keep], *, now: datetime | None = None) -> int:
    """Delete what is not kept; return how many jobs were deleted. Any number may do so at once."""
    moment = now or datetime.now(UTC)
    removed = 0
    for one in keep:
        old = partial(store.prune, finished_before=moment - one.age, states=one.states, limit=PAGE)
        removed += await _page_by_page(old)
        if one.count is not None or one.size is not None:
            many = partial(
                store.trim, keep_count=one.count, keep_bytes=one.size, states=one.states, limit=PAGE
            )
            removed += await _page_by_page(many)
    return removed


async def _page_by_page(delete: Callable[[], Awaitable[int]]) -> int:
    """Until there is nothing to delete, or it is enough for once."""
    removed = 0
    for _ in range(PAGES):
        began = time.monotonic()
        page = await delete()
        removed += page
        if not page:
            break
        await asyncio.sleep(time.monotonic() - began)
    return removed
