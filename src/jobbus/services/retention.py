"""Deletes jobs that ended long ago, a little at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from jobbus.job import DEAD, TERMINAL, JobState
from jobbus.store import JobStore

PAGE = 1000
"""Jobs in one transaction."""
PAGES = 10
"""Pages in one step: the rest waits for the next, so that maintenance never crowds out the work."""


def keep_for(finished: timedelta, dead: timedelta) -> Mapping[frozenset[JobState], timedelta]:
    """How long to keep jobs that ended well or by wish, and those in the dead letters."""
    return {TERMINAL - DEAD: finished, DEAD: dead}


async def prune_once(
    store: JobStore, keep: Mapping[frozenset[JobState], timedelta], *, now: datetime | None = None
) -> int:
    """Delete what is older than its time; return how many jobs were."""
    moment = now or datetime.now(UTC)
    removed = 0
    for states, age in keep.items():
        for _ in range(PAGES):
            page = await store.prune(finished_before=moment - age, states=states, limit=PAGE)
            removed += page
            if page < PAGE:
                break
    return removed
