"""Ends tasks for certain, even where a cancellation gets lost on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN: Final = 0.5
"""Seconds after which a task that goes on is cancelled once more."""


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until all have ended. What they raise is looked at by nobody else.

    Once is not enough: before Python 3.12, ``asyncio.wait_for`` drops a cancellation that comes at
    the moment of its success, and pools of connections wait with it.
    """
    pending = asked = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=_AGAIN)
        except asyncio.CancelledError:
            for task in pending:
                task.cancel()
            raise
    for task in asked:
        if not task.cancelled():
            task.exception()
