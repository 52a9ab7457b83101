"""What goes on beside a worker's jobs: progress reports, retention, the event log, keys, health."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from jobbus.job import DEAD, TERMINAL
from jobbus.services.loop import every
from jobbus.services.retention import Keep, prune_once

from .keys import key_services

if TYPE_CHECKING:
    from jobbus.middleware.idempotency import Idempotency
    from jobbus.settings import Settings
    from jobbus.store import JobStore

    from .settle import Settler

_ALWAYS_WATCHED: Final = timedelta(seconds=60)


def kept(settings: Settings) -> tuple[Keep, Keep]:
    """What the settings keep of jobs that ended well or by wish, and of dead letters."""
    return (
        Keep(
            states=TERMINAL - DEAD,
            age=timedelta(days=settings.job_history_retention_days),
            count=settings.job_history_retention_count,
            size=settings.job_history_retention_bytes,
        ),
        Keep(
            states=DEAD,
            age=timedelta(days=settings.failed_job_retention_days),
            count=settings.failed_job_retention_count,
            size=settings.failed_job_retention_bytes,
        ),
    )


def services(
    settings: Settings,
    store: JobStore | None,
    settler: Settler,
    guard: Idempotency | None,
    store_found: Callable[[], None],
) -> list[Coroutine[Any, Any, None]]:
    """Loops to run until the worker ends; ``store_found`` hears of keys that can be kept again."""
    progress = timedelta(seconds=settings.progress_update_interval_seconds)
    loops = [every(progress, settler.report_progress)]
    if guard is not None:
        loops += key_services(guard, settings, store_found)
    if store is None:
        return loops
    prune = functools.partial(prune_once, store, kept(settings))
    loops.append(every(timedelta(seconds=settings.cleanup_interval_seconds), prune))
    if settings.event_log == "always":
        watch = functools.partial(store.watch, lasting=_ALWAYS_WATCHED)
        loops.append(every(_ALWAYS_WATCHED / 3, watch))
    return loops
