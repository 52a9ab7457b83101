"""Sends jobs whose time has come from the ledger to the broker, for workers that do not."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import Final

from jobbus.errors import BackendError
from jobbus.tracked import TrackedQueue
from jobbus.tracked.relay import Relay

log = logging.getLogger("jobbus.services")

WINDOW: Final = 100
"""Jobs of one queue that wait at the broker: what an urgent one may have to wait behind."""
_LOOK: Final = timedelta(seconds=1)
_CLOSE_LOOK: Final = timedelta(milliseconds=50)
"""While workers empty the window: their starts ring no bell."""
_PAUSE_CAP: Final = 30.0


async def relay_once(queue: TrackedQueue, relay: Relay) -> tuple[int, int]:
    """Hand over what may run, of every queue; return how many jobs went, and how many wait there.

    Raises what the broker raises; what it did not take is in the ledger as before.
    """
    await queue.ledger.look_after()
    steps = [await relay.step(name) for name in await queue.ledger.waiting_queues()]
    return sum(step.sent for step in steps), sum(step.outstanding for step in steps)


async def keep_relaying(queue: TrackedQueue, *, window: int = WINDOW) -> None:
    """Relay until cancelled, woken by news. Outages are waited out, longer each time."""
    relay = queue.relay(window=window)
    failures = 0
    try:
        while True:
            seen = queue.ledger.news
            try:
                sent, outstanding = await relay_once(queue, relay)
            except BackendError as error:
                pause = min(_PAUSE_CAP, 0.5 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
                failures += 1
                log.warning("relaying failed, trying again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                continue
            failures = 0
            if not sent:
                await queue.ledger.await_news(seen, _CLOSE_LOOK if outstanding else _LOOK)
    finally:
        await relay.finish()
