"""Daemon threads for calls that block: made when needed, kept for the next call.

Not an executor of the standard library: those hold the process up at its end until the last call
has returned, and a long poll returns only after twenty seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from jobbus.errors import BackendUnavailable

T = TypeVar("T")
Work = Callable[[], None]


class Threads:
    """Up to ``most`` threads; more work than that waits for one of them."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running = 0
        self._free = 0
        self._unreserved = 0
        """Pieces of work for which no thread is free or new."""
        self._last: Work | None = None

    def start(self, work: Work) -> None:
        """Have ``work``, which raises nothing, done. BackendUnavailable once closed."""
        with self._lock:
            if self._last is not None:
                raise BackendUnavailable("this queue is closed")
            if self._free:
                self._free -= 1
            elif self._running < self._most:
                self._running += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            else:
                self._unreserved += 1
            self._work.put(work)

    async def run(self, call: Callable[[], T]) -> T:
        """What ``call`` returns or raises. Cancelling stops the waiting, not the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                answer = call()
            except BaseException as error:
                tell(loop, _fail, future, error)
            else:
                tell(loop, _succeed, future, answer)

        self.start(work)
        return await future

    def close(self, last: Work) -> None:
        """Take no more work; whoever finishes last does ``last``. Returns at once."""
        with self._lock:
            if self._last is not None:
                return
            self._last = last
            for _ in range(self._running):
                self._work.put(None)
            if self._running:
                return
        last()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            with self._lock:
                if self._unreserved:
                    self._unreserved -= 1
                else:
                    self._free += 1
        with self._lock:
            self._running -= 1
            last = self._last if not self._running else None
        if last is not None:
            last()


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *news: Any) -> bool:
    """Call back on the loop; False when that loop is closed and nobody listens."""
    try:
        loop.call_soon_threadsafe(callback, *news)
    except RuntimeError:
        return False
    return True


def _succeed(future: asyncio.Future[T], answer: T) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
