"""When a burst is over: nothing is left that could run here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from jobbus.queue import BackgroundJobQueue

from .fetch import Fetcher
from .held import Holdings

BURST_PATIENCE: Final = 15.0
"""Seconds without a job after which a burst no longer waits for delayed ones or other workers'."""
_IN_FLIGHT: Final = 1.0
"""Seconds without a delivery after which a broker is believed to have none on the way.

For brokers that count only what they have not sent: a message that travels is in no count.
"""
_LOOK: Final = 0.05


async def until_empty(
    queue: BackgroundJobQueue, names: Iterable[str], fetcher: Fetcher, holdings: Holdings
) -> None:
    """Until no job of these queues is ready, in hand, or due soon."""
    while True:
        await fetcher.empty.wait()
        if len(holdings) == 0:
            depths = [await queue.get_queue_depth(name) for name in names]
            left = sum(d.ready + (d.delayed or 0) + (d.leased or 0) for d in depths)
            blind = any(depth.leased is None for depth in depths)
            over = left == 0 or fetcher.silence > BURST_PATIENCE
            if over and len(holdings) == 0 and (not blind or fetcher.silence > _IN_FLIGHT):
                return
        await asyncio.sleep(_LOOK)
