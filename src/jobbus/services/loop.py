"""Runs a step again and again, for as long as its worker lives."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from jobbus.errors import BackendError

log = logging.getLogger("jobbus.services")


async def every(interval: timedelta, step: Callable[[], Awaitable[object]]) -> None:
    """Call ``step`` each ``interval``, give or take a fifth, until cancelled.

    A step that the backend fails is tried again next time; the loop goes on.
    """
    while True:
        # Spread, so that a fleet that was started together does not maintain together.
        await asyncio.sleep(interval.total_seconds() * random.uniform(0.8, 1.2))  # noqa: S311
        try:
            await step()
        except BackendError as error:
            log.warning("%s failed, trying again later: %s", getattr(step, "__name__", step), error)
