"""An event loop on a thread of its own, for links that no other loop may hold up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from jobbus.errors import BackendUnavailable

T = TypeVar("T")
_GRACE: Final = 0.05


class Portal:
    """Runs what other loops ask for. Its thread is a daemon: it holds no process up."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._ended = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def ended(self) -> bool:
        return self._ended

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` returns or raises there. Cancelling ends the waiting, not the work.

        Raises BackendUnavailable when the thread has ended.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def tell(done: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # who asked is gone, and so is the loop
                loop.call_soon_threadsafe(_pass_on, done, answer)

        with self._lock:
            if self._ended:
                raise BackendUnavailable("the queue is closed")
            running = asyncio.run_coroutine_threadsafe(work(), self._loop)
        running.add_done_callback(tell)
        return await answer

    def call(self, act: Callable[[], object]) -> None:
        """Have ``act`` called there soon; it is not, where the thread has ended."""
        with self._lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(act)

    def end(self) -> None:
        """End the thread, from within, once those who wait have had the time to be answered."""
        self._loop.call_later(_GRACE, self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with self._lock:
                self._ended = True
            self._loop.run_until_complete(_cancel_all())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


async def _cancel_all() -> None:
    """Also what was asked for at the last moment, and has not begun."""
    await asyncio.sleep(0)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _pass_on(done: Future[T], answer: asyncio.Future[T]) -> None:
    if answer.done():
        return
    if done.cancelled():
        answer.set_exception(BackendUnavailable("the queue was closed"))
    elif error := done.exception():
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
