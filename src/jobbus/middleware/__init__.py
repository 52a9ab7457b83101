"""Policies around a handler: each is one plain async function that wraps the next.

A middleware is ``async def (context, call_next)``; it awaits ``call_next()`` for the handler's
result and may act before, after, and on errors. Sync handlers run inside the innermost call, so
there is no second kind. The first in the list is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from jobbus.context import JobContext

CallNext = Callable[[], Awaitable[Any]]
Middleware = Callable[[JobContext, CallNext], Awaitable[Any]]


def compose(middleware: Sequence[Middleware], context: JobContext, handler: CallNext) -> CallNext:
    """``handler`` inside all of ``middleware``."""
    call = handler
    for layer in reversed(middleware):
        call = _wrap(layer, context, call)
    return call


def _wrap(layer: Middleware, context: JobContext, call_next: CallNext) -> CallNext:
    async def call() -> Any:
        return await layer(context, call_next)

    return call


__all__ = ["CallNext", "Middleware", "compose"]
